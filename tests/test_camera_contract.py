"""One contract for every camera. A backend is one entry of BACKENDS: a context that yields a `Bench`, the camera's address and what the scene before it really was."""
import contextlib
import gc
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import psutil
import pytest

from debir_nb import gphoto2, v4l2
from debir_nb.camera import Camera, Capabilities, Range, Shot, Steps, departure
from debir_nb.dng import normalise

from ptpip_camera import Emulator
from v4l2_kernel import FakeVideo


@dataclass
class Bench:
    "A camera on the bench, noiseless, before a scene that does not move."
    open: Callable  # () -> a camera, not yet entered
    shots: list[Shot]  # of its own steps, short of saturation
    released: Callable = lambda: True  # whether nobody holds the camera
    log: Callable | None = None  # () -> exposures and gains that it really took, of settled frames
    known_by: str = "EXIF"
    unsaid: dict = field(default_factory=dict)


@contextlib.contextmanager
def over_the_network():
    with Emulator() as emulator:
        def log(): return [Shot(t, iso/100) for t, iso in emulator.log()["shots"]]
        yield Bench(lambda: gphoto2.open_camera(f"gphoto2:{emulator.port}"), [Shot(4e-3, 4), Shot(8e-3), Shot(2e-3, 8), Shot(1.67e-2, 1)], emulator.released, log)


@contextlib.contextmanager
def behind_a_fake_kernel():
    with FakeVideo("SRGGB12") as device:
        yield Bench(lambda: v4l2.V4L2Camera(f"v4l2:{device.path}", settle=3), [Shot(4e-3, 4), Shot(8e-3), Shot(2e-3, 8), Shot(16e-3, 2)], lambda: not device.opened, known_by="read back")


@contextlib.contextmanager
def simulated():
    import torch

    from debir_nb.simulated_camera import SimulatedCamera, open_camera
    from debir_nb.raw import random_colour
    from debir_nb.core import generator
    del SimulatedCamera, random_colour, generator, torch
    yield Bench(lambda: open_camera("simulated", (64, 64), noise=lambda gain: (0*gain, 0*gain)), [Shot(1/240, 200), Shot(1/120, 100), Shot(1/60, 50)], known_by="simulated")


BACKENDS = {"gphoto2 over PTP/IP": over_the_network, "v4l2 with a fake kernel": behind_a_fake_kernel}
