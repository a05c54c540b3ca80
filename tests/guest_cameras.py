"""What the virtual machine runs (see camera_guest.py): the real drivers, one check after the other.

Each leaves a line of JSON, which test_camera_guest.py judges.

Loading torch takes minutes on an emulated processor, and nothing here computes with it: torch, and the two modules of the library that use it on being
imported, are represented by placeholders. The camera code itself, linuxpy, the kernel and its drivers are real.
"""

import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path
from unittest.mock import MagicMock

sys.path.insert(0, str(Path(__file__).parents[1]))
torch = MagicMock(
    Tensor=type("Tensor", (), {}),
    Generator=type("Generator", (), {}),
    device=type("device", (), {}),
    dtype=type("dtype", (), {}),
)
sys.modules |= {"torch": torch, "debir_nb.light.degradation": MagicMock(), "debir_nb.light.raw": MagicMock()}

from uvc_camera import APERTURE_PRIORITY, UvcCamera  # noqa: E402

from debir_nb.cameras import v4l2  # noqa: E402
from debir_nb.cameras.protocol import CameraError, NoCamera, Shot, choose  # noqa: E402

SHOTS = [Shot(t, g) for t, g in ((1e-3, 1), (2e-3, 1), (4e-3, 1), (4e-3, 4), (50e-3, 1), (1e-3, 1))]


def opened(device, black=64, **options):
    return v4l2.V4L2Camera(f"v4l2:{device.path}", black=black, white=4095, **options)


def exact(device, frame):
    return bool((frame.photo.mosaic == device.picture(frame.achieved.exposure, frame.achieved.gain)).all())


def error_of(action):
    try:
        action()
    except CameraError as error:
        return type(error).__name__
    return "none"


def enter(camera):
    with camera:
        pass


def vivid():
    """Every Bayer format that the kernel's test driver has: its layout, the depth of its brightest pixel, and
    that frames follow each other.
    """
    path = next(address for address, name in v4l2.find_cameras().items() if name == "vivid").removeprefix(
        "v4l2:"
    )
    video, found = v4l2._video(), {}
    with video.Device(path) as device:
        names = [layout.name for layout in v4l2.bayer_formats(device)]
    for name in names:
        with v4l2.RawStream(path, name) as stream:
            first, second = (stream.take(time.monotonic() + 20) for _ in range(2))
            # the second of eight bars: no blue in it
            yellow = first[0][:, stream.format.width // 8 + 8 : stream.format.width // 4 - 8]
            y, x = divmod(stream.format.layout.pattern.index("B"), 2)
            found[name] = [
                first[0].shape,
                int(first[0].max()),
                second[1] > first[1],
                yellow[y::2, x::2].mean() / yellow[1 - y :: 2, 1 - x :: 2].mean(),
            ]
    return found


def bracket():
    with UvcCamera() as device, opened(device, black=None) as camera:
        frames = list(camera.burst(SHOTS))
        values = [(frame.achieved.exposure, frame.achieved.gain) for frame in frames]
        light = [(frame.photo.mosaic - 64.0).mean() / frame.achieved.value for frame in frames]
        return dict(
            exact=[exact(device, frame) for frame in frames],
            achieved=values,
            settle=camera._frames.known.settle,
            black=frames[0].photo.black.tolist(),
            ratio=max(light) / min(light),
            starts=[frame.start for frame in frames],
            pattern=camera.capabilities.pattern,
            bits=camera.capabilities.bits,
        )


def stale():
    "Nobody asks for a while; then the next frame is of the new setting, and of now."
    with UvcCamera(latency=0) as device, opened(device, settle=2) as camera:
        first = camera.preview(Shot(1e-3))
        time.sleep(1.5)
        now = time.monotonic()
        again = camera.preview(Shot(1e-3))
        time.sleep(1)
        changed = camera.preview(Shot(3e-3))
        return dict(exact=[exact(device, frame) for frame in (first, again, changed)], age=again.start - now)


def changed_silently():
    with UvcCamera(step=30) as device, opened(device, settle=4) as camera:
        frame = camera.preview(Shot(4e-3))
        return dict(achieved=frame.achieved.exposure, exact=exact(device, frame))


def no_gain():
    with UvcCamera(gain=False) as device, opened(device, settle=4) as camera:
        return dict(
            gains=camera.capabilities.gains.values, achieved=camera.preview(Shot(4e-3, 8)).achieved.gain
        )


def automatic():
    with UvcCamera(modes=APERTURE_PRIORITY) as device:
        return error_of(lambda: enter(opened(device)))


def no_raw():
    with UvcCamera(fourcc="YUY2") as device:
        return [error_of(lambda: enter(opened(device))), f"v4l2:{device.path}" in v4l2.find_cameras()]


def two():
    with UvcCamera() as device, opened(device, settle=4) as first:
        busy = error_of(lambda: enter(opened(device)))
        found = v4l2.find_cameras()  # vivid is the other
        try:
            choose(found, "v4l2")
        except NoCamera:
            return dict(found=len(found), busy=busy, exact=exact(device, first.preview(Shot(2e-3))))


def stall():
    with UvcCamera() as device, opened(device, settle=4) as camera:
        taken, begun = [], 0

        def shoot():
            nonlocal begun
            for frame in camera.burst(SHOTS, timeout=1.5):
                taken.append(exact(device, frame))
                device.stalled, begun = True, time.monotonic()

        error, waited = error_of(shoot), time.monotonic() - begun
        device.stalled = False
        return dict(
            taken=taken,
            error=error,
            waited=waited,
            after=exact(device, camera.preview(Shot(5e-3), timeout=20)),
        )


def unplug():
    with UvcCamera() as device:
        taken = []

        def shoot():
            with opened(device, settle=4) as camera:
                for frame in camera.burst(SHOTS, timeout=10):
                    taken.append(exact(device, frame))
                    device.unplug()

        error = error_of(shoot)
    handles = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    with UvcCamera() as device, opened(device, settle=4) as camera:
        again = exact(device, camera.preview(Shot(2e-3)))
    return dict(
        taken=taken,
        error=error,
        left=[handle for handle in handles if "video" in handle],
        again=again,
        gone=error_of(lambda: enter(opened(device))),
    )


def many():
    "Two hundred bursts."

    def state():
        gc.collect()
        return len(os.listdir("/proc/self/fd")), int(
            next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]
        )

    with UvcCamera(size=(32, 32), rate=200, latency=0) as device, opened(device, settle=1) as camera:
        states, wrong = [], 0
        for burst in range(200):
            wrong += sum(not exact(device, frame) for frame in camera.burst([Shot(1e-3)]))
            if burst in (20, 199):
                states.append(state())
    return dict(states=states, wrong=wrong)


CHECKS = [vivid, bracket, stale, changed_silently, no_gain, automatic, no_raw, two, stall, unplug, many]

if __name__ == "__main__":
    with open("/media/checks", "w") as out:
        for check in CHECKS:
            begun = time.monotonic()
            try:
                found = {"found": check()}
            except Exception:
                found = {"failed": traceback.format_exc()}
            print(
                json.dumps({"check": check.__name__, "seconds": time.monotonic() - begun, **found}),
                file=out,
                flush=True,
            )
