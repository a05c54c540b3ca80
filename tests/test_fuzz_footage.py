"Mutated clips, photographs and tables are read or refused by a sentence, within bounds of time and memory."

import numpy as np
import pytest
import torch
from clip_maker import marked, moving, write_clip
from fuzz_common import attack
from PIL import Image, ImageCms, features

from debir_nb.light.clips import ClipError
from debir_nb.light.footage import Declaration, open_clip, read_table
from debir_nb.light.photographs import PictureError


def read_clip(path):
    "All of a file, as the pipeline reads it; what comes is what was promised."
    clip = open_clip(path, fps=240)
    frames = clip.frames()
    assert frames.dtype == torch.uint8 and frames.shape == (clip.n_frames, 3, *clip.size)


PICTURES = {
    "png": {},
    "jpg": {},
    "webp": {},
    "tif": {"compression": "tiff_lzw"},
    "bmp": {},
    "gif": {},
    "ppm": {},
    "jp2": {},
}
if features.check("avif"):
    PICTURES["avif"] = {}


@pytest.mark.parametrize("suffix", PICTURES)
def test_mutated_photographs(tmp_path, suffix):
    picture = Image.fromarray(np.concatenate(moving(1)))
    exif = Image.Exif()
    exif[0x0112] = 6
    known = {"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    if suffix in ("bmp", "ppm", "gif", "jp2"):
        known = {}
    picture.save(tmp_path / f"seed.{suffix}", **PICTURES[suffix], **known)
    attack(read_clip, tmp_path / f"seed.{suffix}", (PictureError, ValueError))


CLIPS = [
    ("libx264", "mp4", "yuv420p", {}),
    ("libx264", "mkv", "yuv420p", {}),
    ("libx264", "m2ts", "yuv420p", {"mark": marked("tff"), "flags": "+ildct+ilme"}),
    ("libx265", "mp4", "yuv420p10le", {}),
    ("libvpx-vp9", "webm", "yuv420p", {}),
    ("libsvtav1", "mp4", "yuv420p", {}),
    ("mpeg2video", "mpg", "yuv420p", {"mark": marked("tff"), "flags": "+ildct+ilme"}),
    ("mjpeg", "avi", "yuvj420p", {}),
    ("mpeg4", "avi", "yuv420p", {}),
    ("prores_ks", "mov", "yuv422p10le", {}),
    ("qtrle", "mov", "argb", {}),
    ("ffv1", "mkv", "yuv420p", {}),
]


@pytest.mark.parametrize("codec, suffix, pixels, options", CLIPS)
def test_mutated_clips(tmp_path, codec, suffix, pixels, options):
    write_clip(tmp_path / f"seed.{suffix}", moving(6), codec, pixels, 25, **options)
    attack(read_clip, tmp_path / f"seed.{suffix}", (ClipError, ValueError))


TABLE = """
wheel_*: {source: wheel, fps: 240, licence: CC0}
holiday/*: &holiday {fps: 120, split: test}
stills/*: {shake: {speed: 4, objects: 2, readout: 0.01}}
more/*: {<<: *holiday, photographs: true}
chart.RAW: {raw: {height: 1080, width: 1920, pattern: RGGB, black: 0, white: 1023}}
"""


def test_mutated_tables(tmp_path):
    (tmp_path / "footage.yaml").write_text(TABLE)
    assert len(read_table(tmp_path)) == 5

    def read(path):
        assert all(isinstance(said, Declaration) for said in read_table(path.parent).values())

    (tmp_path / "odd").mkdir()
    attack(read, tmp_path / "footage.yaml", (ValueError,), tmp_path / "odd" / "footage.yaml")
