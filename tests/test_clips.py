"Videos of every kind give the picture that was filmed, at the time it was filmed, or one true sentence."

import warnings
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from clip_maker import SIZE, bars, copy_packets, marked, moving, patches, square, write_clip

from debir_nb.light.clips import (
    ClipError,
    Tally,
    check_times,
    count_video,
    decoded,
    doubled,
    opened_video,
    progressive,
    read_video,
)
from debir_nb.light.footage import find_clips, open_clip
from debir_nb.light.photographs import WIDE, recoded

INTERLACED = {"flags": "+ildct+ilme"}


def pictures_of(path, n=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_video(path, 0, n)


def woven(n=12, first=0):
    "Interlaced frames: even lines at one instant, odd lines 4 px of motion later (or earlier)."
    fields = moving(2 * n)
    even = (np.arange(SIZE[0])[:, None, None] % 2) == first
    return [np.where(even, a, b) for a, b in zip(fields[::2], fields[1::2])]


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize(
    "codec, suffix",
    [
        ("libx264", "mp4"),
        ("libx264", "m2ts"),
        ("libx264", "mkv"),
        ("mpeg2video", "mpg"),
        ("mpeg2video", "mxf"),
        ("prores_ks", "mov"),
        ("mpeg4", "avi"),
    ],
)
def test_interlaced_clips_are_brought_to_one_instant(tmp_path, codec, suffix, order):
    pixels, path = "yuv422p10le" if codec == "prores_ks" else "yuv420p", tmp_path / f"woven_240fps.{suffix}"
    write_clip(
        path,
        woven(first=int(order == "bff")),
        codec,
        pixels,
        25,
        b="4000000",
        mark=marked(order),
        **INTERLACED,
    )
    with opened_video(path) as (container, stream):
        if not any(frame.interlaced_frame for frame in decoded(path, container, stream, Tally())):
            pytest.skip(f"this FFmpeg does not write interlaced {codec}")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        clip = open_clip(path)
    assert any("is interlaced" in str(word.message) for word in heard)
    assert clip.n_frames == 12 and clip.size == SIZE
    got = clip.frames().permute(0, 2, 3, 1).numpy().astype(int)
    for i in (3, 6, 8):
        # combs are steps between neighbouring lines, where a square has none
        combs = np.abs(np.diff(got[i, 34:58], axis=0)).mean()
        assert combs < 3, (i, combs)  # 8.6 when woven
        first, second = (np.abs(got[i] - square(4 * k)).mean() for k in (2 * i, 2 * i + 1))
        assert first < 4 and first < second  # it shows the instant of the first field


@pytest.mark.parametrize(
    "size, pixels, aspect", [((576, 720), "yuv420p", 16 / 15), ((480, 720), "yuv411p", 8 / 9)]
)
def test_dv_is_deinterlaced_and_its_pixels_are_square(tmp_path, size, pixels, aspect):
    tall = [np.kron(bars((size[0] // 8, size[1] // 8)), np.ones((8, 8, 1), np.uint8))] * 4
    rate = 25 if size[0] == 576 else Fraction(30000, 1001)
    path = write_clip(tmp_path / "tape_240fps.avi", tall, "dvvideo", pixels, rate)
    with pytest.warns(UserWarning, match="is interlaced"):
        clip = open_clip(path)
    assert clip.size[0] == size[0] and abs(clip.size[1] - round(size[1] * aspect)) <= 1
    got = clip.frames(0, 1)[0].permute(1, 2, 0).numpy()
    assert np.abs(patches(got) - patches(bars())).max() < 9


TAGGED = [
    (codec, suffix, pixels, m, r)
    for codec, suffix, pixels in (
        ("libx264", "mp4", "yuv420p"),
        ("libx264", "mov", "yuv444p"),
        ("libx265", "mp4", "yuv420p"),
        ("libx265", "mkv", "yuv420p10le"),
        ("libx265", "mp4", "yuv422p12le"),
        ("libsvtav1", "mp4", "yuv420p"),
        ("libsvtav1", "mkv", "yuv420p10le"),
        ("libvpx-vp9", "webm", "yuv420p"),
        ("libvpx-vp9", "mp4", "yuv420p"),
    )
    for m, r in ((1, 1), (5, 1), (9, 2))
]
PLAIN = [
    (codec, suffix, pixels, m, r)
    for codec, suffix, pixels, m, r in (
        ("prores_ks", "mov", "yuv422p10le", 5, 1),
        ("mjpeg", "avi", "yuvj420p", 5, 2),
        ("mpeg2video", "mpg", "yuv420p", 5, 1),
        ("ffv1", "mkv", "bgr0", None, None),
        ("qtrle", "mov", "rgb24", None, None),
        ("png", "mov", "rgb24", None, None),
        ("rawvideo", "avi", "yuv420p", 5, 1),
    )
]


@pytest.mark.parametrize("codec, suffix, pixels, matrix, reach", TAGGED + PLAIN)
def test_colours_are_those_that_were_filmed(tmp_path, codec, suffix, pixels, matrix, reach):
    tags = {"matrix": matrix, "reach": reach} if matrix else {}
    path = write_clip(tmp_path / f"bars_240fps.{suffix}", [bars()] * 6, codec, pixels, 25, **tags)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clip = open_clip(path)
        got = clip.frames()[2].permute(1, 2, 0).numpy()
    assert clip.n_frames == 6 and clip.size == SIZE
    assert np.abs(patches(got) - patches(bars())).max() < 7


@pytest.mark.parametrize(
    "size, matrix", [((480, 640), 5), ((576, 720), 5), ((720, 1280), 1), ((1080, 1920), 1)]
)
def test_colours_without_a_tag_are_those_that_players_show(tmp_path, size, matrix):
    def untagged(stream):
        stream.codec_context.colorspace = 2

    picture = bars(size)
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv444p"
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv444p", dst_colorspace=matrix
        )
        frame.colorspace, frame.pts = 2, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert np.abs(patches(pictures_of(path)[0]) - patches(bars())).max() < 2


@pytest.mark.parametrize("primaries", [9, 12])
def test_wide_colours_become_srgb(tmp_path, primaries):
    def tag(stream):
        stream.codec_context.color_primaries = primaries
        stream.codec_context.color_trc = 1

    path = write_clip(tmp_path / "wide.mkv", [bars()] * 3, "ffv1", "yuv444p", prepare=tag, matrix=9, reach=1)
    right = recoded(bars() / 255, WIDE[primaries])
    assert np.abs(patches(pictures_of(path)[0]) - patches(right)).max() < 3
    assert np.abs(patches(right) - patches(bars())).max() > 15


@pytest.mark.parametrize(
    "curve, word", [(16, "HDR, PQ"), (18, "HDR, HLG"), (8, "linear light"), (9, "logarithmic"), (17, "DCI")]
)
@pytest.mark.parametrize(
    "codec, pixels", [("ffv1", "yuv420p10le"), ("libx265", "yuv420p10le"), ("libx264", "yuv420p")]
)
def test_light_that_is_no_display_value_is_refused(tmp_path, curve, word, codec, pixels):
    def tag(stream):
        stream.codec_context.color_trc, stream.codec_context.color_primaries = curve, 9

    path = write_clip(tmp_path / "hdr.mkv", [bars()] * 2, codec, pixels, prepare=tag, matrix=9, reach=1)
    with pytest.raises(
        ClipError, match=rf"hdr.mkv holds numbers that are no display values \({word}\): convert it"
    ):
        count_video(path)


def test_ten_bits_that_say_nothing_are_read_with_a_word(tmp_path):
    path = write_clip(tmp_path / "deep.mkv", moving(), "ffv1", "yuv420p10le")
    with pytest.warns(UserWarning, match="does not say how its light is encoded: it is taken for Rec. 709"):
        assert count_video(path)[0] == 12


@pytest.mark.parametrize(
    "codec, suffix, pixels",
    [
        ("qtrle", "mov", "argb"),
        ("png", "mov", "rgba"),
        ("ffv1", "mkv", "yuva420p"),
        ("prores_ks", "mov", "yuva444p10le"),
    ],
)
def test_transparent_clips(tmp_path, codec, suffix, pixels):
    clear = [np.dstack([picture, np.full(SIZE, 255, np.uint8)]) for picture in moving(4)]
    path = write_clip(tmp_path / f"opaque.{suffix}", clear, codec, pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert count_video(path)[0] == 4  # opaque: nothing is lost
    clear[2][10:30, 10:30, 3] = 90
    path = write_clip(tmp_path / f"clear.{suffix}", clear, codec, pixels)
    with pytest.raises(ClipError, match="is transparent in places: encode it on a background"):
        count_video(path)


def test_vp9_with_a_second_stream_of_alpha(tmp_path):
    def say(stream):
        stream.metadata["alpha_mode"] = "1"

    path = write_clip(tmp_path / "alpha.webm", moving(4), "libvpx-vp9", prepare=say)
    with pytest.raises(ClipError, match="has a transparent channel"):
        count_video(path)


@pytest.mark.parametrize("angle, turns", [(0, 0), (90, 1), (180, 2), (270, 3)])
def test_clips_are_turned_upright(tmp_path, angle, turns):
    path = write_clip(tmp_path / "phone.mp4", moving(4), prepare=lambda s: s.set_display_rotation(angle))
    plain = pictures_of(write_clip(tmp_path / "plain.mp4", moving(4)))[0]
    upright = np.rot90(plain, turns)
    assert count_video(path)[1] == upright.shape[:2] and np.array_equal(pictures_of(path)[0], upright)


@pytest.mark.parametrize(
    "matrix, right",
    [
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda p: p[::-1, ::-1].swapaxes(0, 1)),
    ],
)
def test_mirrored_clips_are_mirrored_back(tmp_path, matrix, right):
    plain = write_clip(tmp_path / "plain.mp4", moving(4))
    content, (a, b, c, d) = plain.read_bytes(), (65536 * m for m in matrix)
    unit, other = (
        np.array((*m[:2], 0, *m[2:], 0, 0, 0, 1 << 30), ">i4").tobytes()
        for m in ((65536, 0, 0, 65536), (a, b, c, d))
    )
    at = content.index(b"tkhd")
    (tmp_path / "turned.mp4").write_bytes(content[:at] + content[at:].replace(unit, other, 1))
    assert np.array_equal(pictures_of(tmp_path / "turned.mp4")[0], right(pictures_of(plain)[0]))


def test_a_clip_that_is_turned_by_half_a_quarter(tmp_path):
    path = write_clip(tmp_path / "odd.mp4", moving(3), prepare=lambda s: s.set_display_rotation(45))
    with pytest.raises(ClipError, match="odd.mp4 is to be turned by no quarter turn"):
        count_video(path)


@pytest.mark.parametrize("aspect, width", [((4, 3), 171), ((8, 9), 114), ((2, 1), 256), ((1001, 1000), 128)])
@pytest.mark.parametrize("codec, suffix", [("libx264", "mp4"), ("libx264", "mkv"), ("libx265", "mp4")])
def test_pixels_that_are_not_square(tmp_path, aspect, width, codec, suffix):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)

    path = write_clip(tmp_path / f"wide.{suffix}", [bars()] * 3, codec, "yuv420p", 25, prepare=prepare)
    assert count_video(path)[1] == (96, width)
    got = pictures_of(path)[0]
    assert got.shape == (96, width, 3) and np.abs(patches(got) - patches(bars())).max() < 7


@pytest.mark.parametrize("first", [1, 7, 11])
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_edited_clips_have_the_frames_that_the_edit_shows(tmp_path, first, suffix):
    whole = write_clip(tmp_path / f"whole.{suffix}", moving(24), bf="0", g="30")

    def earlier(i, packet):
        shift = round(first / 240 / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        return packet

    cut = copy_packets(whole, tmp_path / f"cut.{suffix}", earlier)
    clip = open_clip(cut, fps=240)
    assert clip.n_frames == 24 - first
    right = np.stack(pictures_of(whole, 24))[first:]
    assert np.array_equal(clip.frames().permute(0, 2, 3, 1).numpy(), right)


@pytest.mark.parametrize("suffix, codec", [("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9")])
@pytest.mark.parametrize(
    "times",
    [
        [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11],  # a frame was dropped
        [0, 1, 2, 3, 4, 12, 20, 28, 36, 44, 52],  # the rate falls
        [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15],  # film on television: two, three, two, three
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 60],  # a pause
    ],
)
def test_frames_that_are_not_evenly_spaced(tmp_path, suffix, codec, times):
    path = write_clip(tmp_path / f"uneven.{suffix}", moving(11), codec, rate=30, times=times)
    with pytest.raises(
        ClipError, match="uneven.* has a rate that varies: its frames are .* ms apart .see frame"
    ):
        count_video(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov", "m2ts"])
@pytest.mark.parametrize("rate", [24, 60, 120, 240])
def test_even_frames_are_even_in_every_container(tmp_path, suffix, rate):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        n, size, stated = count_video(write_clip(tmp_path / f"even.{suffix}", moving(40, 2), rate=rate))
    assert (n, size) == (40, SIZE) and abs(stated - rate) < 0.02 * rate


def test_a_trembling_clock_gets_a_warning(tmp_path):
    times = np.arange(40) / 30 + np.random.default_rng(0).uniform(-0.004, 0.004, 40)
    with pytest.warns(
        UserWarning, match="clip.mp4 has frames that are .* ms apart .*: they are taken as evenly"
    ):
        check_times("clip.mp4", times, 1e-5)
    with pytest.raises(ClipError, match="rate that varies"):
        check_times("clip.mp4", np.sort(np.r_[times, times[7]]), 1e-5)


def test_doubled_frames_are_found_in_a_clip_that_moves_and_not_in_one_that_rests(tmp_path):
    twice = [picture for i, picture in enumerate(moving(16)) for _ in range(1 + (i % 4 == 3))]
    with pytest.warns(UserWarning, match=r"twice.mp4 repeats frames .frames 4, 9, 14"):
        count_video(write_clip(tmp_path / "twice.mp4", twice, qp="10"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count_video(write_clip(tmp_path / "rest.mp4", [square(20)] * 16, qp="10"))
        count_video(write_clip(tmp_path / "once.mp4", moving(16), qp="10"))
    assert doubled(np.array([0.0])).size == 0


@pytest.mark.parametrize(
    "codec, suffix",
    [
        ("libx264", "mp4"),
        ("libx265", "mp4"),
        ("libx264", "mkv"),
        ("mjpeg", "avi"),
        ("mpeg4", "avi"),
        ("libvpx-vp9", "mp4"),
        ("libsvtav1", "mp4"),
        ("prores_ks", "mov"),
    ],
)
def test_damage_is_heard(tmp_path, codec, suffix):
    pixels = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    noise = [np.random.default_rng(i).integers(0, 255, (*SIZE, 3)).astype(np.uint8) for i in range(24)]
    first = {"movflags": "faststart"} if suffix in ("mp4", "mov") else {}
    path = write_clip(tmp_path / f"clip_240fps.{suffix}", noise, codec, pixels, 25, container=first)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ClipError, match="truncated or damaged"):
            count_video(path)


def test_a_frame_of_another_size_in_the_middle(tmp_path):
    path = tmp_path / "sizes.ts"
    small = write_clip(tmp_path / "small.h264", moving(4, size=(96, 96)))
    path = tmp_path / "sizes.h264"
    path.write_bytes(write_clip(tmp_path / "a.h264", moving(4)).read_bytes() + small.read_bytes())
    with pytest.raises(ClipError, match="changes its size or format at frame"):
        count_video(path)


def test_only_containers_of_pictures_are_opened_and_no_other_file_is_reached(tmp_path):
    target = write_clip(tmp_path / "secret.mp4", moving(4))
    lists = {
        "list.mp4": f"ffconcat version 1.0\nfile '{target}'\n",
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9999 RTP/AVP 96\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ClipError, match=f"{name} cannot be read as a video"):
            count_video(tmp_path / name)
    odd = write_clip(tmp_path / "clip.mp4", moving(4)).rename(tmp_path / "file:concat|x%03d.mp4")
    assert count_video(odd)[0] == 4  # a name is only a name


def test_sound_only_and_a_cover(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ClipError, match="sound.mp4 holds no moving pictures"):
        count_video(tmp_path / "sound.mp4")


def test_reading_in_parts_is_reading_whole_when_fields_are_separated(tmp_path):
    path = write_clip(tmp_path / "woven.mp4", woven(), rate=25, **INTERLACED, **{"x264-params": "tff=1"})
    whole = pictures_of(path, 12)
    for start, stop in ((0, 1), (5, 7), (11, 12)):
        assert all(np.array_equal(a, b) for a, b in zip(read_video(path, start, stop), whole[start:stop]))
    with pytest.raises(ClipError, match="woven.mp4 ends before frame 13"):
        read_video(path, 12, 13)


def test_progressive_frames_pass_the_filter_untouched(tmp_path):
    path = write_clip(tmp_path / "plain.mp4", moving())
    with opened_video(path) as (container, stream):
        frames = list(decoded(path, container, stream, Tally()))
        assert all(a is b for a, b in zip(progressive(iter(frames)), frames))


def test_one_bad_clip_does_not_stop_the_others(tmp_path):
    for name in ("a", "b", "c"):
        write_clip(tmp_path / f"{name}_240fps.mp4", moving(4))
    write_clip(tmp_path / "d_240fps.mp4", moving(11), times=[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11])
    found = find_clips(tmp_path)
    assert len(found.clips) == 3 and "rate that varies" in found.left_out["d_240fps.mp4"]


@pytest.mark.parametrize("code", ["vp09", "mp4v", "MJPG"])
def test_frames_are_those_of_opencv_byte_for_byte(tmp_path, code):
    "Scenes of clips that OpenCV wrote and once read, as those of the release, do not change."
    path = tmp_path / f"clip.{'avi' if code == 'MJPG' else 'mp4'}"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 240, SIZE[::-1])
    for picture in moving(12):
        video.write(picture[..., ::-1].copy())
    video.release()
    reader = cv2.VideoCapture(str(path))
    for ours in pictures_of(path, 12):
        assert np.array_equal(reader.read()[1][..., ::-1], ours)
