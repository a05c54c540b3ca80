"""What reads files, answers or packets of others: valid ones to begin with, how one is read, and the errors that are its own.

    python tests/fuzz_readers.py CASES SEED [READER ...]

prints JSON, for so many mutated files a reader (`fuzzing.py`).
"""

import functools
import json
import sys
import zlib
from pathlib import Path

from fuzzing import Reader, fuzz

ROOT = Path(__file__).resolve().parents[1]


def saved(thing):
    "What torch writes."
    import io

    import torch

    torch.save(thing, file := io.BytesIO())
    return file.getvalue()


def weights(folder):
    from debir_nb.restorers.by_name import fresh_restorer

    return [saved(fresh_restorer(word, 2, 4).state_dict()) for word in ("kernels", "merge")]


def read_weights(path):
    from debir_nb.restorers.by_name import load_restorer

    load_restorer(path)


def baenet(folder):
    from debir_nb.policies.baenet import BAENet

    return [saved(BAENet(2).state_dict())]


def read_baenet(path):
    from debir_nb.weights.pretrained import load_baenet

    load_baenet(path)


def published(folder):
    import torch

    return [saved({"state_dict": {"burstormer.x": torch.zeros(3)}, "epoch": 3})]


def read_published(path):
    from debir_nb.weights.published import read_state_dict

    read_state_dict(path)


def trained(path, steps=3):
    "A training of one layer, resumed from a checkpoint."
    import torch

    from debir_nb.training.loop import fit

    def loss(model, draws, step):
        return model(torch.randn(4, 3, generator=draws)).square().mean(), {}

    settings = dict(lr=0.1, lr_final=0.01, clip=1.0, seed=0, every=1)
    fit(torch.nn.Linear(3, 1), loss, steps=steps, out=path.parent, **settings)


def checkpoint(folder):
    trained(folder / "checkpoint.pt")
    return [(folder / "checkpoint.pt").read_bytes()]


def parameters(folder):
    return [(ROOT / "params.yaml").read_bytes()]


def read_parameters(path):
    from debir_nb.pipeline.params import set_params

    (path.parent / "data").mkdir(exist_ok=True)
    set_params(path, ["pretrain.steps=3"])


def experiments(folder):
    return [(ROOT / "experiments.yaml").read_bytes()]


def read_experiments(path):
    from debir_nb.pipeline.experiments import read_experiments

    for row in read_experiments(path).values():
        assert row.name


def changes(folder):
    return [
        b"pretrain.steps=3",
        b"scale=paper",
        b"pretrain.lr={smoke: 1.0e-3, small: 2, paper: 0}",
        b"scenes.footage=data",
    ]


def read_changes(path):
    import shutil

    from debir_nb.pipeline.params import set_params

    (path.parent / "data").mkdir(exist_ok=True)
    if not (path.parent / "params.yaml").exists():
        shutil.copy(ROOT / "params.yaml", path.parent)
    before = (path.parent / "params.yaml").read_bytes()
    set_params(path.parent / "params.yaml", [path.read_text(errors="replace")])
    (path.parent / "params.yaml").write_bytes(before)


def burst(folder):
    import numpy as np

    from debir_nb.light.dng import write_dng

    for i in range(4):
        write_dng(folder / f"frame_{i + 1}.dng", np.full((32, 32), 900, np.uint16), exposure=0.01, iso=400)
    frames = [{"file": f"frame_{i + 1}.dng", "exposure": 0.01, "gain": 4.0} for i in range(4)]
    whole = {"made_by": "debir_nb 1", "camera": "c", "complete": True, "error": None, "frames": frames}
    return [json.dumps(whole | {"complete": done}, indent=1).encode() for done in (True, False)]


def read_burst(path):
    from debir_nb.cameras.files import raw_files, read_burst

    folder = path.parent.resolve()
    for found in raw_files(path.parent):
        assert folder in found.resolve().parents, f"{found} lies outside"
    read_burst(raw_files(path.parent))


def prepared(path):
    "Whether another capture's manifest may be replaced."
    from debir_nb.cameras.capture import is_manifest

    is_manifest(path)


def table(folder):
    from test_pipeline import tiny_footage

    from debir_nb.light.footage import find_clips
    from debir_nb.scenes import build, plan

    tiny_footage(folder / "clips")
    clips = find_clips(folder / "clips").clips
    made = plan.plan_scenes(
        clips, dict.fromkeys(plan.SPLITS, 1), dict.fromkeys(plan.SPLITS, 32), (0.4, 0.3, 0.3), 228, seed=1
    )
    build.build_scenes(clips, made, folder / "made", 228)
    for split in plan.SPLITS:
        (folder / "made" / split).rename(folder / split)
    return [(folder / "made" / "scenes.csv").read_bytes()]


def read_table(path):
    import torch

    from debir_nb.scenes.store import open_scenes

    store = open_scenes(path.parent, "test", 2)
    store.light(torch.tensor([0])).sums(torch.tensor([[0, 3, 20]]))
    store.colour(torch.tensor([0]))


def scene(folder):
    table(folder)
    (folder / "scenes.csv").write_bytes((folder / "made" / "scenes.csv").read_bytes())
    return [(folder / "test" / "00000.npy").read_bytes()]


def read_scene(path):
    import torch

    from debir_nb.scenes.store import open_scenes

    (path.parent / "test" / "00000.npy").write_bytes(path.read_bytes())
    open_scenes(path.parent, "test", 2).light(torch.tensor([0])).sums(torch.tensor([[0, 3]]))


def sums(folder):
    from debir_nb.disk import write_sum

    for name in ("restorer.pt", "baenet.pt"):
        (folder / name).write_bytes(name.encode())
        write_sum(folder / name)
    return [(folder / "SHA256SUMS").read_bytes()]


def read_sums(path):
    from debir_nb.disk import check_sum

    check_sum(path.parent / "restorer.pt")


def texts(folder):
    return [b"1/1000", b"0.0166s", b"Auto ISO", b'30"', b"12800", b"Hi 1.0", b"bulb", b"ISO 100"]


def read_texts(path):
    "What a camera's controls say."
    from debir_nb.cameras.gphoto2 import SPEEDS, raw_choice, sensitivity

    text = path.read_bytes().decode(errors="replace")
    for read in {*SPEEDS.values(), sensitivity}:
        number = read(text)
        assert number is None or number > 0
    raw_choice([text])


def read_clip(path):
    "All of a clip or photograph, as the pipeline reads it; what comes is what was promised."
    import torch

    from debir_nb.light.footage import open_clip

    clip = open_clip(path, fps=240)
    frames = clip.frames()
    assert frames.dtype == torch.uint8 and frames.shape == (clip.n_frames, 3, *clip.size)


# suffixes of photographs, and how they are compressed
PHOTOGRAPHS = {
    "png": {},
    "jpg": {},
    "webp": {},
    "tif": {"compression": "tiff_lzw"},
    "bmp": {},
    "gif": {},
    "ppm": {},
    "jp2": {},
    "avif": {},
}


def photograph(suffix, folder):
    import numpy as np
    from clip_maker import moving
    from PIL import Image, ImageCms

    known = {}
    if suffix in ("png", "jpg", "webp", "tif", "avif"):
        exif, profile = Image.Exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        exif[0x0112] = 6
        known = {"exif": exif, "icc_profile": profile.tobytes()}
    path = folder / f"seed.{suffix}"
    Image.fromarray(np.concatenate(moving(1))).save(path, **PHOTOGRAPHS[suffix], **known)
    return [path.read_bytes()]


# codec, suffix, pixels, whether it is interlaced
CLIPS = [
    ("libx264", "mp4", "yuv420p", False),
    ("libx264", "mkv", "yuv420p", False),
    ("libx264", "m2ts", "yuv420p", True),
    ("libx265", "mp4", "yuv420p10le", False),
    ("libvpx-vp9", "webm", "yuv420p", False),
    ("libsvtav1", "mp4", "yuv420p", False),
    ("mpeg2video", "mpg", "yuv420p", True),
    ("mjpeg", "avi", "yuvj420p", False),
    ("mpeg4", "avi", "yuv420p", False),
    ("prores_ks", "mov", "yuv422p10le", False),
    ("qtrle", "mov", "argb", False),
    ("ffv1", "mkv", "yuv420p", False),
]


def clip(codec, suffix, pixels, interlaced, folder):
    from clip_maker import marked, moving, write_clip

    options = {"mark": marked("tff"), "flags": "+ildct+ilme"} if interlaced else {}
    write_clip(folder / f"seed.{suffix}", moving(6), codec, pixels, 25, **options)
    return [(folder / f"seed.{suffix}").read_bytes()]


TABLE = b"""
wheel_*: {source: wheel, fps: 240, licence: CC0}
holiday/*: &holiday {fps: 120, split: test}
stills/*: {shake: {speed: 4, objects: 2, readout: 0.01}}
more/*: {<<: *holiday, photographs: true}
chart.RAW: {raw: {height: 1080, width: 1920, pattern: RGGB, black: 0, white: 1023}}
"""


def read_declarations(path):
    from debir_nb.light.footage import Declaration, read_table

    assert all(isinstance(said, Declaration) for said in read_table(path.parent).values())


def raw(folder):
    "A DNG, a DNG of ours, makers' TIFF, and one of the other byte order."
    import numpy as np
    from drawn_raw import D65, GREY, counts, mosaicked, patches, raw_bytes

    from debir_nb.light.dng import write_dng
    from debir_nb.light.tags import Tag

    mosaic = counts(mosaicked(patches()[0]))
    write_dng(folder / "ours.dng", mosaic, exposure=0.01, iso=400, noise=(1e-4, 1e-6))
    colour = {Tag.COLOR_MATRIX: ("srational", D65), Tag.AS_SHOT_NEUTRAL: GREY}
    flat = np.full((48, 72), 900, np.uint16)
    makers = [("PENTAX", "PENTAX K10D"), ("NIKON CORPORATION", "NIKON D70")]
    return [
        (folder / "ours.dng").read_bytes(),
        raw_bytes(mosaic, colour),
        *(raw_bytes(flat, dng=False, make=make, model=model) for make, model in makers),
    ]


def read_photo(path):
    import numpy as np
    import torch

    from debir_nb.light.dng import normalise, read_raw

    photo = read_raw(path)
    assert torch.isfinite(normalise(photo)).all() and np.isfinite(photo.color_matrix).all()
    assert np.isfinite(photo.white_balance).all()


@functools.cache
def camera():
    "A camera in a process of its own, which ends with this one."
    from ptpip_camera import Emulator

    return Emulator().__enter__()


WHOLE = b"packets of a camera"


def read_packets(path):
    "One frame from a camera whose packets are mutated, by what the file holds."
    from debir_nb.cameras import gphoto2
    from debir_nb.cameras.protocol import Shot

    data = path.read_bytes()
    whole = data == WHOLE
    timeout = 20 if whole else 0.3  # a sound camera is waited for
    gphoto2.OPENING, gphoto2.TRANSFER, gphoto2.SETTLING = (20, 20, 2) if whole else (0.8, 0.3, 0.1)
    camera().reset(mutate=None if whole else zlib.crc32(data))
    with gphoto2.open_camera(f"gphoto2:{camera().port}") as opened:
        frame = opened.preview(Shot(2e-3, 4.0), timeout)
    assert frame.achieved.exposure > 0 and frame.achieved.gain > 0


CAMERA_ERRORS = (
    "NoCamera CameraBusy CameraLost CaptureTimeout CameraStorageFull ExposureRefused NoRaw CameraError"
)
READERS = {
    **{
        f"photograph.{suffix}": Reader(
            functools.partial(photograph, suffix), read_clip, f"odd.{suffix}", ("ValueError", "PictureError")
        )
        for suffix in PHOTOGRAPHS
    },
    **{
        f"{row[0]} in {row[1]}": Reader(
            functools.partial(clip, *row), read_clip, f"odd.{row[1]}", ("ValueError", "ClipError")
        )
        for row in CLIPS
    },
    "footage.yaml": Reader(lambda folder: [TABLE], read_declarations, "footage.yaml"),
    "RAW": Reader(raw, read_photo, "odd.dng"),
    "PTP/IP": Reader(lambda folder: [WHOLE], read_packets, errors=tuple(CAMERA_ERRORS.split())),
    "weights": Reader(weights, read_weights),
    "baenet": Reader(baenet, read_baenet),
    "published": Reader(published, read_published),
    "checkpoint": Reader(checkpoint, trained, "checkpoint.pt"),
    "params.yaml": Reader(parameters, read_parameters, "params.yaml"),
    "experiments.yaml": Reader(experiments, read_experiments, "experiments.yaml"),
    "changes": Reader(changes, read_changes),
    "manifest.json": Reader(
        burst, read_burst, "manifest.json", ("ValueError", "OSError", "FileNotFoundError")
    ),
    "foreign manifest": Reader(burst, prepared, "manifest.json"),
    "scenes.csv": Reader(table, read_table, "scenes.csv"),
    "a scene": Reader(scene, read_scene),
    "SHA256SUMS": Reader(sums, read_sums, "SHA256SUMS"),
    "camera controls": Reader(texts, read_texts),
}


if __name__ == "__main__":
    wanted = sys.argv[3:] or READERS
    print(json.dumps({name: fuzz(name, READERS[name], int(sys.argv[1]), sys.argv[2]) for name in wanted}))
