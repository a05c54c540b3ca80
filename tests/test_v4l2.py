"""Video devices with RAW: every format, settling, and faults, with linuxpy's calls answered in the kernel's place. (The real drivers: test_camera_guest.py.)"""

import sys

import numpy as np
import pytest
from v4l2_kernel import FakeVideo, pack

from debir_nb.cameras import v4l2
from debir_nb.cameras.protocol import (
    CameraBusy,
    CameraError,
    CameraLost,
    CaptureTimeout,
    ExposureRefused,
    NoCamera,
    NoRaw,
    Shot,
    departure,
)
from debir_nb.cameras.v4l2 import (
    RawStream,
    V4L2Camera,
    bayer_format,
    find_cameras,
    frames_to_settle,
    open_camera,
    unpack_bayer,
)

ORDERS = ["RGGB", "BGGR", "GRBG", "GBRG"]
FORMATS = [f"S{order}{bits}" for order in ORDERS for bits in (8, 10, 12, 14, 16, "10P", "12P", "14P")]


def opened(device, settle=3, **options):
    return V4L2Camera(f"v4l2:{device.path}", settle=settle, **options)


@pytest.mark.parametrize("name", FORMATS)
def test_packed_and_unpacked_again(name):
    layout, draws = bayer_format(name), np.random.default_rng(len(name))
    for width in (8, 20, 21, 22, 23):  # whole groups and broken ones
        counts = draws.integers(0, 2**layout.bits, (6, width), np.uint16)
        rows = pack(counts, layout.bits, layout.packed)
        for padding in (0, 2, 6):
            data = np.pad(rows, ((0, 0), (0, padding))).tobytes()
            assert (unpack_bayer(data, layout, 6, width, rows.shape[1] + padding) == counts).all()
        with pytest.raises(ValueError, match=name):
            unpack_bayer(data[:-1], layout, 6, width, rows.shape[1] + padding)


@pytest.mark.parametrize("name", ["YUYV", "MJPEG", "SRGGB10ALAW8", "SRGGB10DPCM8", "RGB24", "SBGGR9"])
def test_no_bayer_format(name):
    assert bayer_format(name) is None


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("padding", [0, 16])
def test_every_format_comes_through_the_driver(name, padding):
    with FakeVideo(name, padding=padding) as device, opened(device) as camera:
        assert (
            camera.capabilities.pattern == bayer_format(name).pattern
            and camera.capabilities.bits == bayer_format(name).bits
        )
        frame = camera.preview(Shot(8e-3, 2))
        assert (
            frame.photo.mosaic == device.picture(8e-3, 2)
        ).all() and frame.photo.white == 2 ** bayer_format(name).bits - 1


@pytest.mark.parametrize("latency", [0, 1, 2, 4, 7])
def test_settling_is_measured_and_enough(latency):
    with FakeVideo(latency=latency) as device, opened(device, settle=None) as camera:
        assert latency < camera._frames.known.settle <= latency + 2
        for shot in (Shot(1e-3), Shot(30e-3), Shot(1e-3, 8), Shot(2e-3, 8)):
            device.run(5)  # frames that nobody takes
            assert (camera.preview(shot).photo.mosaic == device.picture(shot.exposure, shot.gain)).all()


def test_settling_in_the_dark():
    with FakeVideo() as device:
        device.picture = lambda exposure, gain=1: np.zeros((device.height, device.width), np.uint16)
        with opened(device, settle=None) as camera:
            assert camera._frames.known.settle == v4l2.SETTLE


def test_steps_in_a_row_of_means():
    assert (
        frames_to_settle([5, 5, 20, 20], 5) == 2
        and frames_to_settle([20, 20], 5) == 0
        and frames_to_settle([5, 5], 5) is None
    )


def test_frames_that_waited_are_stale():
    with FakeVideo(latency=0) as device, opened(device, settle=1) as camera:
        first = camera.preview(Shot(5e-3))
        device.run(10)
        before = len(device.exposed)
        again = camera.preview(Shot(5e-3))
        # not one of the four in the buffers
        assert len(device.exposed) > before and again.start > first.start + 10 / 30


def test_a_frame_that_comes_out_torn_is_passed_over():
    with FakeVideo() as device, opened(device) as camera:
        camera.preview(Shot(5e-3))
        device.torn, before = 2, len(device.exposed)
        assert (camera.preview(Shot(5e-3)).photo.mosaic == device.picture(5e-3)).all() and len(
            device.exposed
        ) == before + 3


def test_an_exposure_that_is_clipped_or_rounded_is_told():
    with FakeVideo() as device, opened(device) as camera:
        frame = camera.preview(Shot(2.0, 1000))
    assert frame.achieved == Shot(0.5, 64) and departure(Shot(2.0, 1000), frame.achieved) > 1
    with FakeVideo(step=50) as device, opened(device) as camera:
        frame = camera.preview(Shot(8e-3, 1))
    assert frame.achieved == Shot(10e-3, 1) and (frame.photo.mosaic == device.picture(10e-3)).all()


def test_gains():
    with FakeVideo(controls=("time",)) as device, opened(device) as camera:
        assert camera.capabilities.gains.values == (1.0,) and camera.preview(Shot(5e-3, 8)).achieved == Shot(
            5e-3, 1
        )
    with FakeVideo(controls=("time", "gain from 0")) as device, opened(device) as camera:
        assert camera.capabilities.gains.values == (1.0,) and camera.preview(Shot(5e-3, 8)).achieved == Shot(
            5e-3, 1
        )  # its law is not known
    with FakeVideo() as device, opened(device, black=0, unity=16) as camera:
        assert (
            camera.capabilities.gains.high == 4
            and camera.preview(Shot(5e-3, 2)).achieved == Shot(5e-3, 2)
            and device.setting() == (5e-3, 32)
        )


def test_levels_are_those_given_and_checked():
    with FakeVideo("SRGGB16") as device, opened(device, black=64, white=4095) as camera:
        assert camera.preview(Shot(1e-4)).photo.white == 4095
        with pytest.raises(NoRaw, match="4095"):
            camera.preview(Shot(50e-3))


@pytest.mark.parametrize(
    "layout, black", [("SRGGB8", 16), ("SRGGB10P", 64), ("SRGGB12", 256), ("SRGGB16", 4096), ("SRGGB12", 0)]
)
def test_black_is_where_the_counts_lead_without_exposure(layout, black):
    for step in (1, 50):  # the exposures that it really has are read back
        with FakeVideo(layout, black=black, step=step) as device, opened(device, settle=None) as camera:
            photo = camera.preview(Shot(5e-3)).photo
        assert np.abs(photo.black - black).max() <= 1 and np.ptp(photo.black) == 0


def test_saturated_pixels_and_a_covered_lens_do_not_move_black():
    noise = np.random.default_rng(0)
    for sun in (0, 9e5):  # counts/s in a third of the pixels
        with FakeVideo(black=100) as device:
            lit = np.tile([0, 0, sun], 16)
            device.picture = lambda exposure, gain=1, lit=lit: (
                (100 + lit * exposure * gain + noise.normal(0, 2, (32, 48)))
                .round()
                .clip(0, 4095)
                .astype(np.uint16)
            )
            with opened(device) as camera:
                assert camera.preview(Shot(5e-3)).photo.black == pytest.approx(np.full((2, 2), 100.0), abs=1)


def test_declared_black_is_not_measured():
    with FakeVideo(black=100) as device, opened(device, black=64) as camera:
        assert not device.exposed and (camera.preview(Shot(5e-3)).photo.black == 64).all()


def sunlit(device):
    return lambda exposure, gain=1: np.full((device.height, device.width), 4095, np.uint16)


def brightening(device):
    return lambda exposure, gain=1: (
        np.full((device.height, device.width), 100 + 3 * len(device.exposed), np.uint16)
        + np.eye(32, 48, dtype=np.uint16)
    )


def accelerating(device):
    return lambda exposure, gain=1: (
        np.full((device.height, device.width), 3e6 * exposure**1.5, np.uint16)
        + np.eye(32, 48, dtype=np.uint16)
    )


@pytest.mark.parametrize(
    "scene, words",
    [
        (sunlit, "100% of the pixels are saturated"),
        (brightening, "the light changed"),
        (accelerating, "do not grow"),
    ],
)
def test_black_that_cannot_be_measured_is_refused_unless_it_is_declared(scene, words):
    with FakeVideo() as device:
        device.picture = scene(device)
        with pytest.raises(NoRaw, match=f"{words}.*cover its lens.*{device.path},black=64"):
            opened(device).__enter__()
        assert not device.opened
        with opened(device, black=64) as camera:
            assert (camera.preview(Shot(5e-3)).photo.black == 64).all()


def test_what_the_driver_does_not_tell_is_declared_in_the_address():
    with FakeVideo("SRGGB16", black=64) as device:
        with open_camera(f"v4l2:{device.path},black=64,white=4095,settle=3,unity=2") as camera:
            photo, gains = camera.preview(Shot(1e-4)).photo, camera.capabilities.gains
    assert (photo.black == 64).all() and photo.white == 4095 and gains.high == 32
    for wrong in ("dark=64", "black=-1", "black=a", "black", ""):
        with pytest.raises(ValueError, match="declares.*such as v4l2:/dev/video0,black=64"):
            open_camera(f"v4l2:/dev/video0,{wrong}")
    for black, white in ((64, 64), (-1, None)):
        with pytest.raises(ValueError, match="0 <= black < white"):
            V4L2Camera("v4l2:/dev/video0", black=black, white=white)


@pytest.mark.parametrize(
    "error, options",
    [
        (ExposureRefused, dict(auto="locked")),
        (ExposureRefused, dict(controls=("gain",))),
        (NoRaw, dict(layout="YUYV")),
    ],
)
def test_a_camera_that_cannot_be_used(error, options):
    with FakeVideo(**options) as device:
        with pytest.raises(error):
            opened(device).__enter__()
        assert not device.opened


def test_nobody_there_and_somebody_else():
    with FakeVideo() as device:
        with pytest.raises(NoCamera, match="plugged in"):
            V4L2Camera("v4l2:/dev/video99").__enter__()
        with opened(device) as first:
            with pytest.raises(CameraBusy):
                opened(device).__enter__()
            assert first.preview(Shot(5e-3)).achieved == Shot(5e-3)
    with pytest.raises(NoCamera):
        V4L2Camera("v4l2:/dev/video99").__enter__()


def test_a_stall_and_an_unplugged_cable_in_the_middle_of_a_burst():
    for fault, error in (("stalled", CaptureTimeout), ("gone", CameraLost)):
        with FakeVideo() as device:
            frames = []
            with pytest.raises(error), opened(device) as camera:
                for frame in camera.burst([Shot(5e-3), Shot(9e-3), Shot(5e-3)], timeout=0.2):
                    frames.append(frame)
                    setattr(device, fault, True)
            assert len(frames) == 1 and not device.opened


def test_after_a_stall_the_next_frame_is_settled():
    with FakeVideo(latency=2) as device, opened(device) as camera:
        camera.preview(Shot(5e-3))
        device.stalled = True
        with pytest.raises(CaptureTimeout):
            camera.preview(Shot(20e-3), timeout=0.1)
        device.stalled = False
        assert (camera.preview(Shot(20e-3)).photo.mosaic == device.picture(20e-3)).all()


def test_finding_them():
    with FakeVideo() as device:
        assert find_cameras() == {f"v4l2:{device.path}": "fake sensor"}
    with FakeVideo("YUYV"):
        assert find_cameras() == {}
    assert find_cameras() == {}  # no camera here


def test_a_format_by_name():
    with FakeVideo("SRGGB10P") as device:
        with RawStream(str(device.path), "SRGGB10P") as stream:
            assert stream.format.layout.packed
        with pytest.raises(NoRaw, match="SRGGB12"):
            RawStream(str(device.path), "SRGGB12").__enter__()


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "linuxpy.video.device", None)
    for needs_it in (find_cameras, V4L2Camera("v4l2:/dev/video0").__enter__):
        with pytest.raises(ImportError, match=r"debir_nb\[v4l2\]"):
            needs_it()


def test_another_error_of_the_kernel_is_a_camera_error():
    with FakeVideo() as device:
        device.s_fmt = device.unknown
        with pytest.raises(CameraError, match="Invalid"):
            opened(device).__enter__()
        assert not device.opened
