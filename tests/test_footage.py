"Footage is read as it is, traced to its source, and refused with a clear sentence when it cannot be used."
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from debir_nb.footage import Clip, find_clips, named_rate, open_clip, read_table

SHARED = Path(__file__).resolve().parents[2] / "shared"
VIDEO = SHARED / "data" / "video"
needs_footage = pytest.mark.skipif(not VIDEO.is_dir(), reason=f"real footage is missing: {VIDEO} does not exist")


def pictures(n=40, size=(48, 64), seed=0):
    "Smooth random frames that differ from each other."
    rng = np.random.default_rng(seed)
    return [cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC) for _ in range(n)]


def write_folder(folder, frames, names="{:03d}.png"):
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(folder / names.format(i)), frame[..., ::-1])
    return folder


def write_video(path, frames, code="MJPG", fps=240):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), fps, frames[0].shape[1::-1])
    for frame in frames:
        video.write(np.ascontiguousarray(frame[..., ::-1]))
    video.release()
    return path


def test_a_folder_gives_back_its_frames_in_any_order(tmp_path):
    frames = pictures(12)
    clip = open_clip(write_folder(tmp_path / "wheel_240fps", frames, "frame{}.png"))
    assert (clip.n_frames, clip.size, clip.fps, clip.frame_exposure) == (12, (48, 64), 240, 1 / 240)
    for start in (11, 2, 10, 0):
        got = clip.frames(start, start + 1)
        assert got.dtype == torch.uint8
        assert np.array_equal(got[0].permute(1, 2, 0), frames[start])


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "tiff", "PNG"])
def test_pictures_of_other_formats_are_read(tmp_path, suffix):
    frames = pictures(3)
    clip = open_clip(write_folder(tmp_path / "clip", frames, "{}." + suffix), fps=240.0)
    assert np.abs(clip.frames().permute(0, 2, 3, 1).numpy().astype(int) - np.stack(frames)).mean() < 6


@pytest.mark.parametrize("code, suffix", [("MJPG", "avi"), ("mp4v", "mp4")])
def test_a_video_gives_the_same_frames_whole_and_in_parts(tmp_path, code, suffix):
    frames = pictures(30)
    clip = open_clip(write_video(tmp_path / f"clip.{suffix}", frames, code))
    whole = clip.frames()
    assert clip.n_frames == 30 and clip.fps == 240 and whole.shape == (30, 3, 48, 64)
    assert torch.equal(clip.frames(17, 21), whole[17:21])
    error = np.abs(whole.permute(0, 2, 3, 1).numpy().astype(int) - np.stack(frames)).mean()
    assert error < 12  # and not with red and blue exchanged, which gives about 40


def test_a_photograph_is_a_clip_of_one_instant(tmp_path):
    photo = pictures(1)[0]
    cv2.imwrite(str(tmp_path / "photo.png"), photo[..., ::-1])
    clip = open_clip(tmp_path / "photo.png")
    assert clip.n_frames == 1 and clip.frame_exposure == 0 and np.array_equal(clip.frames()[0].permute(1, 2, 0), photo)


def test_a_photograph_is_shown_upright(tmp_path):
    from PIL import Image
    image = Image.fromarray(pictures(1)[0])
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "photo.jpg", exif=exif)
    assert open_clip(tmp_path / "photo.jpg").size == (64, 48)


def test_the_table_wins_over_the_name_and_the_name_over_the_container(tmp_path):
    for name in ("a_240fps", "b_240fps", "c"):
        write_video(tmp_path / f"{name}.avi", pictures(4), fps=150)
    (tmp_path / "footage.csv").write_text("clip,source,fps,licence\na_240fps,tree,300,CC0\n")
    a, b, c = find_clips(tmp_path)
    assert (a.fps, a.source, a.licence) == (300, "tree", "CC0")
    assert (b.fps, b.source, b.licence) == (240, "b_240fps", "")
    assert c.fps == 150
    assert open_clip(tmp_path / "a_240fps.avi", fps=480.0).fps == 480


def test_nested_folders_are_found_and_declared_with_a_star(tmp_path):
    for name in ("GOPR0372_07_00", "GOPR0372_07_01"):
        write_folder(tmp_path / "train" / name, pictures(3), "{:06d}.png")
    (tmp_path / "footage.csv").write_text("clip,source,fps\ntrain/GOPR*,,240\n")
    assert [(c.name, c.source, c.fps, c.n_frames) for c in find_clips(tmp_path)] == [
        (f"train/{name}", f"train/{name}", 240, 3) for name in ("GOPR0372_07_00", "GOPR0372_07_01")]


def test_a_folder_of_frames_may_be_the_footage_folder_itself(tmp_path):
    clips = find_clips(write_folder(tmp_path / "wheel_240fps", pictures(3)))
    assert [(c.name, c.n_frames) for c in clips] == [("wheel_240fps", 3)]


def test_loose_pictures_are_photographs_and_hidden_files_are_not_seen(tmp_path):
    write_folder(tmp_path / "photos", pictures(1), "cat.png")
    cv2.imwrite(str(tmp_path / "photos" / "dog.png"), pictures(1, (30, 40))[0])
    write_folder(tmp_path / ".thumbnails", pictures(3))
    assert [(c.name, c.n_frames, c.size) for c in find_clips(tmp_path)] == [("photos/cat", 1, (48, 64)), ("photos/dog", 1, (30, 40))]


def test_slow_footage_is_slowed_only_on_request_and_says_so(tmp_path):
    path = write_video(tmp_path / "p30_dog.avi", pictures(4), fps=30)
    with pytest.raises(ValueError, match="p30_dog.*30 frames/s.*slow_as=240"):
        open_clip(path)
    clip = open_clip(path, slow_as=240.0)
    assert (clip.fps, clip.slowed) == (240, 8)
    assert open_clip(path, fps=300.0, slow_as=240.0).slowed == 1
    with pytest.raises(ValueError, match="slow_as is 60"):
        open_clip(path, slow_as=60.0)
    with pytest.raises(ValueError, match="fps is -240"):
        open_clip(path, fps=-240.0)


@pytest.mark.parametrize("name, fps", [
    ("hfr240_car_loop", 240), ("x/p59.94_gym", 59.94), ("jump-240fps-b", 240), ("jump 120 fps", 120), ("step30_a", None), ("gap2_x", None)])
def test_named_rates(name, fps):
    assert named_rate(name) == fps


def test_a_folder_without_a_rate_says_how_to_declare_it(tmp_path):
    with pytest.raises(ValueError, match="'wheel' has no known capture rate.*'wheel,,240,'.*footage.csv"):
        open_clip(write_folder(tmp_path / "wheel", pictures(2)))


@pytest.mark.parametrize("suffix", ["mp4", "avi", "png"])
@pytest.mark.parametrize("content", [b"", b"this is no picture"])
def test_unreadable_files(tmp_path, suffix, content):
    path = tmp_path / f"clip_240fps.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"clip_240fps.{suffix} cannot be read"):
        open_clip(path)


def test_a_video_that_breaks_off_says_how_many_frames_decode_and_nothing_else(tmp_path):
    path = write_video(tmp_path / "clip.avi", pictures(40))
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"promises 40 frames but only \d+ decode"):
        open_clip(path)
    program = f"from debir_nb.footage import open_clip\ntry: open_clip({str(path)!r})\nexcept ValueError: print('refused')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    assert (done.stdout, done.stderr) == ("refused\n", "")  # the decoder's own chatter is silenced


def test_a_video_damaged_in_the_middle_is_refused(tmp_path):
    path = write_video(tmp_path / "clip.avi", pictures(40))
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third:2 * third] = bytes(third)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="promises 40 frames but only"):
        open_clip(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_frame_is_refused_rather_than_filled_with_grey(tmp_path, suffix):
    folder = write_folder(tmp_path / "clip", pictures(3, (200, 200)), "{}." + suffix)
    path = folder / f"1.{suffix}"
    path.write_bytes(path.read_bytes()[:path.stat().st_size * 2 // 3])
    clip = open_clip(folder, fps=240.0)
    assert clip.frames(0, 1).shape == (1, 3, 200, 200)
    with pytest.raises(ValueError, match=f"1.{suffix} cannot be read"):
        clip.frames()


def test_frames_of_different_sizes(tmp_path):
    folder = write_folder(tmp_path / "clip", pictures(5))
    cv2.imwrite(str(folder / "003.png"), pictures(1, (24, 32))[0])
    with pytest.raises(ValueError, match="003.png is 24 x 32 px where most are 48 x 64"):
        open_clip(folder, fps=240.0)


def test_grey_levels_of_16_bits(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((8, 8), np.uint16))
    with pytest.raises(ValueError, match="not an 8-bit picture"):
        open_clip(tmp_path / "deep.png")


def test_missing_and_empty_places(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        open_clip(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a folder"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no clips"):
        find_clips(tmp_path)
    with pytest.raises(ValueError, match="holds no pictures"):
        open_clip(tmp_path)


@pytest.mark.parametrize("start, stop", [(0, 4), (2, 2), (-1, 2), (3, 4)])
def test_frames_that_do_not_exist(tmp_path, start, stop):
    clip = open_clip(write_folder(tmp_path / "clip", pictures(3)), fps=240.0)
    with pytest.raises(ValueError, match=f"frames {start} to {stop} of clip 'clip' do not exist: it has 3"):
        clip.frames(start, stop)


@pytest.mark.parametrize("text, message", [
    ("name,fps\na,240\n", "needs clip and fps"),
    ("clip,fps\na,fast\n", "the rate 'fast'"),
    ("clip,fps\na,0\n", "the rate '0'"), ("clip,fps\na,-240\n", "the rate '-240'"),
])
def test_tables_that_say_nothing(tmp_path, text, message):
    (tmp_path / "footage.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path)


@needs_footage
def test_real_footage_is_found_at_its_capture_rate():
    clip = open_clip(VIDEO / "hfr240_car_loop", folder=VIDEO)
    assert isinstance(clip, Clip) and (clip.fps, clip.n_frames, clip.size) == (240, 53, (720, 1280))
    wheel = open_clip(VIDEO / "hfr300_bicycle_wheel.mp4")  # its container says 30
    assert (wheel.fps, wheel.slowed, wheel.n_frames) == (300, 1, 418)
    with pytest.raises(ValueError, match="captured at 24 frames/s"):
        open_clip(VIDEO / "p24_soccer_juggle.mp4")
