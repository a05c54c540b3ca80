"""One contract for every camera. A backend is one entry of BACKENDS: a context that yields a `Bench`, a camera without noise before a scene that does not move.

(The cameras of the virtual machine are judged by the same facts in test_camera_guest.py.)
"""

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
from ptpip_camera import Emulator
from v4l2_kernel import FakeVideo

from debir_nb.cameras import gphoto2, v4l2
from debir_nb.cameras.protocol import Camera, Capabilities, Shot, departure
from debir_nb.cameras.simulated import SimulatedCamera, in_the_hand, scene_light
from debir_nb.light.dng import normalise


@dataclass
class Bench:
    "A camera, and what is known of it from elsewhere."

    camera: Callable  # () -> a camera, not yet entered
    shots: list[Shot]  # of its own steps, short of saturation
    known_by: str  # how it knows its exposures
    log: Callable | None = None  # () -> what it really took, frame by frame
    released: Callable = lambda: True  # whether nobody holds it
    bursts: int = 200  # in a row


@contextlib.contextmanager
def ptpip():
    with Emulator() as emulator:
        shots = [Shot(4e-3, 4), Shot(8e-3), Shot(2e-3, 8), Shot(1.67e-2, 1)]

        def log():
            return [Shot(t, iso / 100) for t, iso in emulator.log()["shots"]]

        yield Bench(
            lambda: gphoto2.open_camera(f"gphoto2:{emulator.port}"), shots, "EXIF", log, emulator.released
        )


@contextlib.contextmanager
def fake_kernel():
    with FakeVideo("SRGGB12") as device:
        shots = [Shot(4e-3, 4), Shot(8e-3), Shot(2e-3, 8), Shot(16e-3, 2)]
        yield Bench(
            lambda: v4l2.V4L2Camera(f"v4l2:{device.path}", settle=3),
            shots,
            "read back",
            released=lambda: not device.opened,
        )


@contextlib.contextmanager
def simulated():
    from debir_nb.core import generator
    from debir_nb.light.raw import random_colour

    colour = random_colour(1, generator(0))
    light = scene_light(in_the_hand(np.full((80, 80, 3), 0.3, np.float32), (32, 32), 0.0, 0), colour, 64)
    shots = [Shot(1 / 240, 200), Shot(1 / 120, 60), Shot(1 / 60, 20), Shot(1 / 30, 5)]
    yield Bench(
        lambda: SimulatedCamera(light, colour, 1.0, noise=lambda gain: (0 * gain, 0 * gain)),
        shots,
        "simulated",
    )


BACKENDS = {"gphoto2-ptpip": ptpip, "v4l2-fake": fake_kernel, "simulated": simulated}


@pytest.fixture(scope="module", params=BACKENDS)
def bench(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # libgphoto2 writes its settings there
        with BACKENDS[request.param]() as made:
            yield made


def keeps_the_contract(bench):
    """Capabilities are honest, frames come in order, are as bright as their exposures say, and the camera is
    free afterwards; returns the frames.
    """
    with bench.camera() as camera:
        assert isinstance(camera, Camera) and isinstance(camera.capabilities, Capabilities)
        for shot in bench.shots:  # its own steps are among what it says it can do
            near = Shot(
                camera.capabilities.exposures.near(shot.exposure)[0],
                camera.capabilities.gains.near(shot.gain)[0],
            )
            assert departure(shot, near) < 1e-6
        start = bench.log and len(bench.log())
        frames = list(camera.burst(bench.shots, timeout=10))
        took = bench.log and bench.log()[start:]
        assert (
            camera.capabilities.pattern == frames[0].photo.pattern
            and camera.capabilities.bits == frames[0].photo.white.bit_length()
        )
    assert [
        departure(asked, frame.achieved) < 1e-6 for asked, frame in zip(bench.shots, frames, strict=True)
    ] == [True] * len(frames)
    assert took is None or [
        departure(real, frame.achieved) < 1e-6 for real, frame in zip(took, frames, strict=True)
    ] == [True] * len(frames)
    assert {frame.known_by for frame in frames} == {bench.known_by} and {
        frame.photo.mosaic.shape for frame in frames
    } == {frames[0].photo.mosaic.shape}
    starts = [frame.start for frame in frames]
    assert starts == sorted(starts) and all(
        later - sooner >= frame.achieved.exposure - 1e-9
        for sooner, later, frame in zip(starts, starts[1:], frames)
    )
    light = [normalise(frame.photo).mean().item() / frame.achieved.value for frame in frames]
    assert max(light) / min(light) < 1.02, f"pixels do not follow exposures: {light}"
    assert bench.released()
    return frames


def test_the_contract(bench):
    keeps_the_contract(bench)


def test_a_second_opening_works_whatever_happened_in_the_first(bench):
    for fault in (None, RuntimeError("the caller failed")):
        with contextlib.suppress(RuntimeError), bench.camera() as camera:
            next(camera.burst(bench.shots))
            if fault:
                raise fault
        assert bench.released()
    keeps_the_contract(bench)


def test_an_abandoned_burst_leaves_the_camera_usable(bench):
    with bench.camera() as camera:
        burst = camera.burst(bench.shots)
        first = next(burst)
        burst.close()
        frames = list(camera.burst(bench.shots[::-1]))
        assert departure(first.achieved, bench.shots[0]) < 1e-6
        assert all(
            departure(asked, frame.achieved) < 1e-6
            for asked, frame in zip(bench.shots[::-1], frames, strict=True)
        )


def test_nothing_is_captured_before_the_first_frame_is_wanted(bench):
    with bench.camera() as camera:
        before = bench.log and bench.log()
        camera.burst(bench.shots)
        assert (bench.log and bench.log()) == before


def test_a_preview_is_a_frame_at_its_settings(bench):
    with bench.camera() as camera:
        for shot in bench.shots[:2]:
            assert departure(shot, camera.preview(shot).achieved) < 1e-6


def test_many_bursts_leak_nothing(bench):
    process = psutil.Process()
    with bench.camera() as camera:

        def bursts(n):
            for _ in range(n):
                assert len(list(camera.burst(bench.shots[:2]))) == 2
            gc.collect()
            return process.num_fds(), process.memory_info().rss

        handles, memory = bursts(bench.bursts // 4)
        handles_later, memory_later = bursts(bench.bursts - bench.bursts // 4)
    assert handles_later == handles
    assert memory_later - memory < 8e6, (
        f"{(memory_later - memory) / 1e6:.1f} MB more after {bench.bursts} bursts"
    )


def test_many_openings_leak_nothing(bench):
    process = psutil.Process()

    def openings(n):
        for _ in range(n):
            with bench.camera() as camera:
                camera.preview(bench.shots[0])
        gc.collect()
        return process.num_fds(), process.memory_info().rss

    handles, memory = openings(5)
    handles_later, memory_later = openings(15)
    assert handles_later == handles and memory_later - memory < 8e6


def test_standard_input_stays_open(bench):
    "libgphoto2 closes it on leaving a camera in the network."
    import os

    before = os.fstat(0)
    with bench.camera():
        pass
    assert os.path.samestat(before, os.fstat(0))
