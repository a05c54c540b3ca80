"Footage is read as it is, traced to its source, and refused with a clear sentence when it cannot be used."

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from debir_nb.light.dng import write_dng
from debir_nb.light.footage import Clip, Shake, find_clips, named_rate, open_clip, raw_light, read_table

SHARED = Path(__file__).resolve().parents[2] / "shared"
VIDEO = SHARED / "data" / "video"
needs_footage = pytest.mark.skipif(
    not VIDEO.is_dir(), reason=f"real footage is missing: {VIDEO} does not exist"
)


def pictures(n=40, size=(48, 64), seed=0):
    "Smooth random frames that differ from each other."
    rng = np.random.default_rng(seed)
    return [
        cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
        for _ in range(n)
    ]


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
    clip = open_clip(write_video(tmp_path / f"clip_240fps.{suffix}", frames, code))
    whole = clip.frames()
    assert clip.n_frames == 30 and clip.fps == 240 and whole.shape == (30, 3, 48, 64)
    assert torch.equal(clip.frames(17, 21), whole[17:21])
    error = np.abs(whole.permute(0, 2, 3, 1).numpy().astype(int) - np.stack(frames)).mean()
    assert error < 12  # and not with red and blue exchanged, which gives about 40


def test_a_photograph_is_a_clip_of_one_instant(tmp_path):
    photo = pictures(1)[0]
    cv2.imwrite(str(tmp_path / "photo.png"), photo[..., ::-1])
    clip = open_clip(tmp_path / "photo.png")
    assert (
        clip.n_frames == 1
        and clip.frame_exposure == 0
        and np.array_equal(clip.frames()[0].permute(1, 2, 0), photo)
    )


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
    (tmp_path / "footage.yaml").write_text("a_240fps: {source: tree, fps: 300, licence: CC0}\n")
    with pytest.warns(UserWarning, match="'c'"):
        a, b, c = find_clips(tmp_path).clips
    assert (a.fps, a.source, a.licence) == (300, "tree", "CC0")
    assert (b.fps, b.source, b.licence) == (240, "b_240fps", "")
    assert c.fps == 150
    assert open_clip(tmp_path / "a_240fps.avi", fps=480.0).fps == 480


def test_nested_folders_are_found_and_declared_with_a_star(tmp_path):
    for name in ("walk_00", "walk_01"):
        write_folder(tmp_path / "street" / name, pictures(3), "{:06d}.png")
    (tmp_path / "footage.yaml").write_text("street/walk_*: {fps: 240, split: test}\n")
    assert [(c.name, c.source, c.fps, c.n_frames, c.split) for c in find_clips(tmp_path).clips] == [
        (f"street/{name}", f"street/{name}", 240, 3, "test") for name in ("walk_00", "walk_01")
    ]


def test_gopro_is_recognised_and_the_parts_of_a_recording_are_one_source(tmp_path):
    for part in ("train/GOPR0384_11_00", "train/GOPR0384_11_05", "test/GOPR0854_11_00"):
        write_folder(tmp_path / part, pictures(3), "{:06d}.png")
    found = find_clips(tmp_path)
    assert [(c.source, c.fps, c.layout) for c in found.clips] == [("GOPR0854_11", 240, "GOPRO_Large_all")] + [
        ("GOPR0384_11", 240, "GOPRO_Large_all")
    ] * 2
    assert found.report() == "3 clips from 2 sources: 3 GOPRO_Large_all"


def test_of_gopro_large_and_realblur_the_sharp_pictures_are_photographs_and_the_blurred_are_passed_over(
    tmp_path,
):
    for folder in (
        "GOPRO_Large/train/GOPR0372_07_00/sharp",
        "GOPRO_Large/train/GOPR0372_07_00/blur_gamma",
        "RealBlur-J/scene007/gt",
        "RealBlur-J/scene007/blur",
    ):
        write_folder(tmp_path / folder, pictures(2), "gt_{}.png")
    assert [(c.name, c.source, c.n_frames) for c in find_clips(tmp_path).clips] == [
        ("GOPRO_Large/train/GOPR0372_07_00/sharp/gt_0", "GOPR0372_07", 1),
        ("GOPRO_Large/train/GOPR0372_07_00/sharp/gt_1", "GOPR0372_07", 1),
        ("RealBlur-J/scene007/gt/gt_0", "scene007", 1),
        ("RealBlur-J/scene007/gt/gt_1", "scene007", 1),
    ]


def test_the_bad_among_the_good_are_left_out_and_listed(tmp_path):
    for name in ("a", "b", "c"):
        write_folder(tmp_path / f"{name}_240fps", pictures(3))
    (tmp_path / "c_240fps" / "001.png").write_bytes((tmp_path / "c_240fps" / "001.png").read_bytes()[:-40])
    found = find_clips(tmp_path)
    assert [c.name for c in found.clips] == ["a_240fps", "b_240fps"] and list(found.left_out) == ["c_240fps"]
    assert "001.png cannot be read as a picture: it is truncated" in found.report()
    (tmp_path / "b_240fps" / "001.png").unlink()
    with pytest.raises(ValueError, match="2 of 3 clips of .* cannot be used: .*lacks frame 1"):
        find_clips(tmp_path)


def test_two_clips_of_one_name(tmp_path):
    for suffix in ("avi", "mkv"):
        write_video(tmp_path / f"wheel_240fps.{suffix}", pictures(3))
    with pytest.raises(
        ValueError, match="wheel_240fps.mkv and .*wheel_240fps.avi are both clip 'wheel_240fps'"
    ):
        find_clips(tmp_path)


@pytest.mark.parametrize(
    "names, message",
    [
        (["1.png", "2.png", "4.png"], "lacks frame 3, 4.png comes next"),
        (["1.png", "01.png", "2.png"], "has frame 1 twice"),
    ],
)
def test_frames_that_are_missing_or_twice(tmp_path, names, message):
    folder = tmp_path / "clip_240fps"
    folder.mkdir()
    for name, picture in zip(names, pictures(3)):
        cv2.imwrite(str(folder / name), picture)
    with pytest.raises(ValueError, match=message):
        open_clip(folder)


def test_a_clip_of_more_than_8_bits(tmp_path):
    video = cv2.VideoWriter(
        str(tmp_path / "deep_240fps.mkv"),
        cv2.VideoWriter_fourcc(*"FFV1"),
        240,
        (64, 48),
        [cv2.VIDEOWRITER_PROP_DEPTH, cv2.CV_16U, cv2.VIDEOWRITER_PROP_IS_COLOR, 0],
    )
    for level in range(5):
        video.write(np.full((48, 64), 9000 * level, np.uint16))
    video.release()
    with pytest.raises(ValueError, match="deep_240fps.mkv has 16 bits a sample, as HDR footage has"):
        open_clip(tmp_path / "deep_240fps.mkv")


def test_a_portrait_clip_with_a_rotation_flag_is_upright(tmp_path):
    path = write_video(tmp_path / "portrait_240fps.mp4", pictures(3), "mp4v")
    content = path.read_bytes()
    unit, quarter = (
        np.array(m, ">i4").tobytes()
        for m in ((65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))
    )
    track = content.index(b"tkhd")
    path.write_bytes(content[:track] + content[track:].replace(unit, quarter, 1))
    clip = open_clip(path)
    assert clip.size == (64, 48) and clip.frames().shape == (3, 3, 64, 48)


def test_grey_frames_are_grey_and_transparent_ones_are_refused(tmp_path):
    grey = pictures(1)[0][..., 0]
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    assert (open_clip(tmp_path / "grey.png").frames()[0].numpy() == grey).all()
    alpha = np.dstack([pictures(1)[0], np.full((48, 64), 255, np.uint8)])
    cv2.imwrite(str(tmp_path / "alpha.png"), alpha)
    assert (
        open_clip(tmp_path / "alpha.png").frames()[0].permute(1, 2, 0).numpy() == alpha[..., 2::-1]
    ).all()  # opaque: nothing is lost
    alpha[0, 0, 3] = 0
    cv2.imwrite(str(tmp_path / "alpha.png"), alpha)
    with pytest.raises(ValueError, match="alpha.png is transparent in places"):
        open_clip(tmp_path / "alpha.png").frames()


def test_a_rate_that_only_the_container_states_is_a_guess(tmp_path):
    path = write_video(tmp_path / "c.avi", pictures(4), fps=150)
    with pytest.warns(
        UserWarning,
        match="'c': nobody says at which rate it was captured, and its container says 150 frames/s",
    ):
        assert open_clip(path).fps == 150


def raw_file(path, counts, white=4095, pattern="RGGB"):
    write_dng(
        path,
        counts.astype(np.uint16),
        exposure=1 / 60,
        iso=100,
        black=256,
        white=white,
        pattern=pattern,
        as_shot_neutral=(0.5, 1.0, 0.7),
    )
    return path


def test_a_raw_photograph_is_a_clip_with_its_own_light(tmp_path):
    counts = np.random.default_rng(0).integers(300, 4000, (48, 64))
    clip = open_clip(raw_file(tmp_path / "photo.dng", counts, pattern="GRBG"))
    assert (clip.n_frames, clip.size, clip.is_raw) == (1, (24, 32), True) and clip.frames().shape == (
        1,
        3,
        24,
        32,
    )
    light = raw_light(clip.raw())
    assert np.allclose(light[0], (counts[0::2, 1::2] - 256) / 3839, atol=1e-6) and np.allclose(
        light[1], ((counts[0::2, 0::2] + counts[1::2, 1::2]) / 2 - 256) / 3839, atol=1e-6
    )
    with pytest.raises(ValueError, match="'a_240fps' is not a RAW photograph"):
        open_clip(write_folder(tmp_path / "a_240fps", pictures(2))).raw()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: np.full_like(c, 4095), "is clipped at its white level of 4095 in 100% of its pixels"),
        (lambda c: np.minimum(c, 2500), "is clipped at 2500 counts but states a white level of 4095"),
    ],
)
def test_raw_levels_that_make_no_sense(tmp_path, change, message):
    counts = change(np.random.default_rng(0).integers(300, 4000, (48, 64)))
    with pytest.raises(ValueError, match=message):
        open_clip(raw_file(tmp_path / "photo.dng", counts))


def test_a_folder_of_frames_may_be_the_footage_folder_itself(tmp_path):
    clips = find_clips(write_folder(tmp_path / "wheel_240fps", pictures(3))).clips
    assert [(c.name, c.n_frames) for c in clips] == [("wheel_240fps", 3)]


def test_loose_pictures_are_photographs_and_hidden_files_are_not_seen(tmp_path):
    write_folder(tmp_path / "photos", pictures(1), "cat.png")
    cv2.imwrite(str(tmp_path / "photos" / "dog.png"), pictures(1, (30, 40))[0])
    write_folder(tmp_path / ".thumbnails", pictures(3))
    assert [(c.name, c.n_frames, c.size) for c in find_clips(tmp_path).clips] == [
        ("photos/cat", 1, (48, 64)),
        ("photos/dog", 1, (30, 40)),
    ]


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


@pytest.mark.parametrize(
    "name, fps",
    [
        ("hfr240_car_loop", 240),
        ("x/p59.94_gym", 59.94),
        ("jump-240fps-b", 240),
        ("jump 120 fps", 120),
        ("step30_a", None),
        ("gap2_x", None),
    ],
)
def test_named_rates(name, fps):
    assert named_rate(name) == fps


def test_a_folder_without_a_rate_says_how_to_declare_it(tmp_path):
    with pytest.raises(
        ValueError, match="'wheel' has no known capture rate.*'wheel': {fps: 240}.*footage.yaml"
    ):
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
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"promises 40 frames but only \d+ decode"):
        open_clip(path)
    program = (
        f"from debir_nb.light.footage import open_clip\ntry: open_clip({str(path)!r})\nexcept ValueError:"
        " print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")  # the decoder's own chatter is silenced


def test_a_video_damaged_in_the_middle_is_refused(tmp_path):
    path = write_video(tmp_path / "clip.avi", pictures(40))
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(third)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="promises 40 frames but only"):
        open_clip(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_frame_is_refused_rather_than_filled_with_grey(tmp_path, suffix):
    folder = write_folder(tmp_path / "clip", pictures(3, (200, 200)), "{}." + suffix)
    path = folder / f"1.{suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=f"1.{suffix} cannot be read"):
        open_clip(folder, fps=240.0).frames()  # a PNG is refused when opened, a JPEG when its frames are read


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


@pytest.mark.parametrize(
    "text, message",
    [
        ("- a\n", r"\['a'\]: write"),
        ("a: 240\n", "gives clip 'a' 240: write"),
        ("a: {rate: 240}\n", "clip 'a' .*any of fps, licence"),
        ("a: {fps: [\n", "cannot be read as YAML"),
        ("a: {fps: fast}\n", "the rate 'fast'"),
        ("a: {fps: 0}\n", "the rate 0"),
        ("a: {fps: -240}\n", "the rate -240"),
        ("a: {fps: .nan}\n", "the rate nan"),
        ("a: {shake: 4}\n", "the shake 4: write"),
        ("a: {shake: {objects: 2}}\n", "only speed is needed"),
        ("a: {shake: {speed: -1}}\n", "speed is -1"),
        (
            "a: {shake: {speed: 1, objects: 1.5}}\n",
            "gives clip 'a' the shake .*objects is 1.5: give a whole number",
        ),
        ("a: {shake: {speed: fast}}\n", "speed is 'fast'"),
        ("a: {raw: {height: 48}}\n", "the raw layout .*: write  raw"),
        ("a: {raw: {height: 47, width: 64, pattern: RGGB, black: 0, white: 9}}\n", "height is 47 px"),
    ],
)
def test_declarations_that_say_nothing(tmp_path, text, message):
    (tmp_path / "footage.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path)


def test_only_photographs_are_given_motion(tmp_path):
    write_folder(tmp_path / "clip_240fps", pictures(3))
    (tmp_path / "footage.yaml").write_text("clip*: {shake: {speed: 2}}\n")
    with pytest.raises(ValueError, match="clip 'clip_240fps' is a recording and moves by itself"):
        open_clip(tmp_path / "clip_240fps")


def test_a_headerless_raw_file_is_declared(tmp_path):
    counts = np.random.default_rng(0).integers(0, 900, (48, 64)).astype("<u2")
    counts.tofile(tmp_path / "chart.RAW")
    with pytest.raises(ValueError, match="no header.*footage.yaml"):
        open_clip(tmp_path / "chart.RAW")
    (tmp_path / "footage.yaml").write_text(
        "chart: {raw: {height: 48, width: 64, pattern: RGGB, black: 0, white: 1023}, shake: {speed: 2}}\n"
    )
    clip = open_clip(tmp_path / "chart.RAW")
    assert (
        clip.is_raw
        and clip.size == (24, 32)
        and np.array_equal(clip.raw().mosaic, counts)
        and clip.shake == Shake(2)
    )


@needs_footage
def test_real_footage_is_found_at_its_capture_rate():
    clip = open_clip(VIDEO / "hfr240_car_loop", folder=VIDEO)
    assert isinstance(clip, Clip) and (clip.fps, clip.n_frames, clip.size) == (240, 53, (720, 1280))
    wheel = open_clip(VIDEO / "hfr300_bicycle_wheel.mp4")  # its container says 30
    assert (wheel.fps, wheel.slowed, wheel.n_frames) == (300, 1, 418)
    with pytest.raises(ValueError, match="captured at 24 frames/s"):
        open_clip(VIDEO / "p24_soccer_juggle.mp4")


@needs_footage
def test_all_shared_footage_is_found():
    found = find_clips(SHARED / "data", slow_as=240.0)
    assert set(found.left_out) == {
        "burst_hdrplus_jpeg",
        "raw/openisp_chart_1920x1080_rggb10.RAW",
    }, found.report()  # nobody says how fast the burst was, nor how the chart's counts lie
    assert (
        sum(clip.is_raw for clip in found.clips) == 3
        and sum("photo/" in clip.name for clip in found.clips) >= 12
    )


@needs_footage
def test_real_files_are_found_once_the_table_says_what_they_do_not(tmp_path):
    for name in ("raw", "burst_hdrplus_jpeg"):
        (tmp_path / name).symlink_to(SHARED / "data" / name)  # a folder elsewhere is found through its link
    (tmp_path / "footage.yaml").write_text(
        "burst_hdrplus_jpeg: {fps: 30}\nraw/openisp_*: {raw: {height: 1080, width: 1920, pattern: RGGB,"
        " black: 0, white: 1023}}\n"
    )
    found = find_clips(tmp_path, slow_as=240.0)
    assert not found.left_out and sum(clip.is_raw for clip in found.clips) == 4 and len(found.clips) == 5
    chart = next(clip for clip in found.clips if "openisp" in clip.name)
    assert chart.size == (540, 960) and 0.1 < raw_light(chart.raw()).mean() < 0.9
