"""The kernel's side of Video4Linux, for linuxpy in this process: a RAW camera with buffers, controls and a sensor, but without a kernel.

Its memory is a file, so that mapping it is real; its `ioctl` answers what a driver would. A frame is exposed whenever somebody waits for one, or when
`run` lets time pass.
"""

import contextlib
import errno
import io
import os
import tempfile
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
from linuxpy.video import device as video
from linuxpy.video import raw

from debir_nb.cameras.v4l2 import bayer_format

CONTROL = raw.ControlID
NAMES = {
    CONTROL.EXPOSURE_AUTO: b"Auto Exposure",
    CONTROL.EXPOSURE_ABSOLUTE: b"Exposure Time, Absolute",
    CONTROL.GAIN: b"Gain",
}


def pack(counts, bits, packed):
    """The bytes of rows of counts, built from one large number for each group: high bytes first, then the low
    bits.
    """
    if not packed:
        return counts.astype(np.uint8 if bits == 8 else "<u2").view(np.uint8)
    n, extra = {10: 4, 12: 2, 14: 4}[bits], bits - 8
    rows = []
    for row in counts:
        row = [*row.tolist(), *[0] * (-len(row) % n)]
        groups = [row[i : i + n] for i in range(0, len(row), n)]
        low = [
            sum((p % 2**extra) << extra * i for i, p in enumerate(group)).to_bytes(n * extra // 8, "little")
            for group in groups
        ]
        rows.append(b"".join(bytes(p >> extra for p in group) + rest for group, rest in zip(groups, low)))
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(counts), -1)


class Handle(io.FileIO):
    "An open device."

    def __init__(self, fake):
        super().__init__(os.dup(fake.memory.fileno()), "r+")
        self.fake, fake.opened = fake, fake.opened + 1

    def close(self):
        if not self.closed:
            self.fake.opened, self.fake.streaming = self.fake.opened - 1, False
        super().close()


class FakeVideo:
    """`latency`: frames between setting a control and the sensor's obeying. `auto`: 'on' (can be switched
    off) or 'locked'. `step`: exposures fall to its
    multiples. `black`: counts without light.
    `stalled` and `gone` may be set at any time; `torn` counts frames that come out with an error.
    """

    def __init__(
        self,
        layout="SRGGB12",
        size=(32, 48),
        latency=2,
        auto="on",
        controls=("time", "gain"),
        step=1,
        padding=0,
        black=0,
        card="fake sensor",
    ):
        self.height, self.width = size
        self.layout, self.latency, self.auto, self.step, self.padding, self.black, self.card = (
            layout,
            latency,
            auto,
            step,
            padding,
            black,
            card,
        )
        self.bayer = bayer_format(layout)
        self.values = {CONTROL.EXPOSURE_AUTO: 3}  # aperture priority
        self.ranges = {CONTROL.EXPOSURE_AUTO: (0, 3)}
        if "time" in controls:
            self.values[CONTROL.EXPOSURE_ABSOLUTE], self.ranges[CONTROL.EXPOSURE_ABSOLUTE] = 100, (1, 5000)
        if "gain" in controls:
            self.values[CONTROL.GAIN], self.ranges[CONTROL.GAIN] = 1, (1, 64)
        if "gain from 0" in controls:
            self.values[CONTROL.GAIN], self.ranges[CONTROL.GAIN] = 7, (0, 255)
        self.exposed, self.stalled, self.gone, self.torn, self.streaming, self.opened, self.clock = (
            [],
            False,
            False,
            0,
            False,
            0,
            0.0,
        )

    # The sensor

    def picture(self, exposure, gain=1.0):
        "What a noiseless sensor records, counts."
        bits = self.bayer.bits if self.bayer else 8
        rates = (np.arange(self.height)[:, None] * 3 + np.arange(self.width) * 5 + 40) * 0.1 * 2**bits
        return np.minimum(self.black + rates * exposure * gain, 2**bits - 1).astype(np.uint16)

    def setting(self):
        exposure = self.values.get(CONTROL.EXPOSURE_ABSOLUTE, 100)
        if self.values[CONTROL.EXPOSURE_AUTO] != 1:
            exposure = 77
        return exposure * 1e-4, self.values[CONTROL.GAIN] if self.ranges.get(CONTROL.GAIN, (0,))[0] else 1

    def expose(self):
        "One frame, if there is a free buffer for it."
        self.pipe.append(self.setting())
        exposure, gain = self.pipe[0]
        self.exposed.append((exposure, gain))
        self.clock += max(exposure, 1 / 30)
        if not self.queue:
            return
        index = self.queue.popleft()
        rows = pack(self.picture(exposure, gain), self.bayer.bits, self.bayer.packed)
        os.pwrite(
            self.memory.fileno(),
            np.pad(rows, ((0, 0), (0, self.stride - rows.shape[1]))).tobytes(),
            index * self.length,
        )
        self.filled.append((index, len(self.exposed), self.clock))

    def run(self, frames):
        "Time passes, and nobody takes a frame."
        for _ in range(frames):
            self.expose()

    def poll(self):
        def wait(milliseconds):
            if self.gone:
                return [(0, 8)]
            if not self.filled and milliseconds and not self.stalled:
                self.expose()
            if not self.filled and milliseconds:
                time.sleep(milliseconds / 1000)
            return [(0, 1)] if self.filled else []

        return SimpleNamespace(register=lambda *_: None, poll=wait)

    # The driver

    def ioctl(self, fd, request, argument):
        if self.gone:
            raise OSError(errno.ENODEV, "No such device")
        return getattr(self, raw.IOC(request).name.lower(), self.unknown)(argument)

    def unknown(self, argument):
        raise OSError(errno.EINVAL, "Invalid argument")

    def querycap(self, caps):
        caps.driver, caps.card, caps.device_caps = (
            b"fake",
            self.card.encode(),
            raw.Capability.VIDEO_CAPTURE | raw.Capability.STREAMING,
        )
        caps.capabilities = caps.device_caps | raw.Capability.DEVICE_CAPS

    def enum_fmt(self, offer):
        if offer.index or offer.type != raw.BufType.VIDEO_CAPTURE:
            self.unknown(offer)
        offer.pixelformat, offer.description = raw.PixelFormat[self.layout], b"as named"

    def g_fmt(self, wanted):
        bits = (self.bayer.bits if self.bayer.packed else 8 * -(-self.bayer.bits // 8)) if self.bayer else 16
        self.stride = -(-self.width * bits // 8) + self.padding
        if self.bayer and not self.bayer.packed and bits > 8:
            self.stride += self.stride % 2
        self.length = -(-self.height * self.stride // 4096) * 4096
        pix = wanted.fmt.pix
        pix.width, pix.height, pix.pixelformat = self.width, self.height, raw.PixelFormat[self.layout]
        pix.bytesperline, pix.sizeimage = self.stride, self.height * self.stride

    s_fmt = g_fmt

    def query_ext_ctrl(self, query):
        which = sorted(self.values)
        if query.id & raw.ControlFlag.NEXT_CTRL:
            which = [c for c in which if c > (query.id & 0x0FFFFFFF)]
        else:
            which = [c for c in which if c == query.id]
        if not which:
            self.unknown(query)
        query.id, query.name = which[0], NAMES[which[0]]
        query.type = raw.CtrlType.MENU if which[0] == CONTROL.EXPOSURE_AUTO else raw.CtrlType.INTEGER
        query.minimum, query.maximum = self.ranges[which[0]]
        query.step, query.elem_size, query.elems = 1, 4, 1
        inactive = which[0] == CONTROL.EXPOSURE_ABSOLUTE and self.values[CONTROL.EXPOSURE_AUTO] != 1
        query.flags = raw.ControlFlag.INACTIVE if inactive else 0

    def querymenu(self, item):
        if item.index not in (1, 3):
            self.unknown(item)
        item.name = b"Manual Mode" if item.index == 1 else b"Aperture Priority Mode"

    def g_ext_ctrls(self, controls):
        for i in range(controls.count):
            controls.controls[i].value = self.values[controls.controls[i].id]

    def s_ext_ctrls(self, controls):
        for i in range(controls.count):
            which, value = controls.controls[i].id, controls.controls[i].value
            if which == CONTROL.EXPOSURE_AUTO and self.auto == "locked":
                raise OSError(errno.EACCES, "Permission denied")
            if which == CONTROL.EXPOSURE_ABSOLUTE and self.values[CONTROL.EXPOSURE_AUTO] != 1:
                raise OSError(errno.EACCES, "Permission denied")
            low, high = self.ranges[which]
            self.values[which] = min(max(value, low), high)
            if which == CONTROL.EXPOSURE_ABSOLUTE:
                self.values[which] = max(round(self.values[which] / self.step) * self.step, low)

    def reqbufs(self, request):
        if request.count and self.streaming:
            raise OSError(errno.EBUSY, "Device or resource busy")
        self.queue, self.filled, self.pipe = (
            deque(),
            deque(),
            deque([self.setting()] * self.latency, self.latency + 1),
        )
        os.ftruncate(self.memory.fileno(), request.count * self.length)

    def querybuf(self, buffer):
        buffer.length, buffer.m.offset = self.length, buffer.index * self.length

    def qbuf(self, buffer):
        self.queue.append(buffer.index)

    def dqbuf(self, buffer):
        if not self.filled:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        buffer.index, buffer.sequence, when = self.filled.popleft()
        buffer.bytesused, buffer.flags = self.height * self.stride, raw.BufferFlag.ERROR if self.torn else 0
        self.torn = max(self.torn - 1, 0)
        buffer.timestamp.secs, buffer.timestamp.usecs = int(when), int(when % 1 * 1e6)

    def streamon(self, _):
        self.streaming = True

    def streamoff(self, _):
        self.streaming = False

    # Taking the kernel's place

    def open(self, path, *_, **__):
        if Path(path) != self.path:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        if self.gone:
            raise OSError(errno.ENODEV, "No such device")
        return Handle(self)

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.memory = self.stack.enter_context(tempfile.NamedTemporaryFile())
        self.path = Path(self.memory.name)
        opener = SimpleNamespace(open=self.open, os=os, select=SimpleNamespace(poll=self.poll, POLLIN=1))
        for patch in (
            mock.patch("linuxpy.ioctl.fcntl", SimpleNamespace(ioctl=self.ioctl)),
            mock.patch.object(video.Device.__init__, "__defaults__", (True, opener, False)),
            mock.patch.object(video, "iter_video_files", lambda *_: [self.path]),
        ):
            self.stack.enter_context(patch)
        return self

    def __exit__(self, *exc):
        self.stack.close()
