"""A USB camera made of software, plugged into the kernel: the real usbcore, uvcvideo and videodev drivers make a /dev/videoN of it.

`vhci_hcd` takes one end of a socket for a USB port (USB/IP protocol, Linux Documentation/usb/usbip_protocol.rst); this module answers at the
other end as a camera of the USB video class 1.0 would. Its frames show a scene at the exposure time and gain that it was set to, `latency` frames late, as
with real sensors. Needs root and the module.
"""

import collections
import os
import socket
import struct
import threading
import time

import numpy as np

PORTS = "/sys/devices/platform/vhci_hcd.0/"
GUID = bytes.fromhex("0000100080 0000aa00389b71".replace(" ", ""))  # end of every format's name
# (entity, control): the camera terminal's exposure mode and time, the processing unit's gain
MODE, TIME, GAIN = (1, 2), (1, 4), (2, 4)
MANUAL, APERTURE_PRIORITY = 1, 8
SET, GET, LOWEST, HIGHEST, RASTER, SIZE, INFO, DEFAULT = 0x01, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87
STALL = -32


class UvcCamera:
    """`modes`: bits of the exposure modes that it has; `step`: its exposures fall to multiples of that many
    0.1 ms; `stalled` stops the stream.
    """

    def __init__(
        self,
        size=(64, 64),
        fourcc="RG16",
        rate=20,
        latency=2,
        gain=True,
        modes=MANUAL | APERTURE_PRIORITY,
        step=1,
    ):
        (self.height, self.width), self.fourcc, self.latency, self.modes, self.step = (
            size,
            fourcc,
            latency,
            modes,
            step,
        )
        self.interval, self.bytes = 10_000_000 // rate, 2 * size[0] * size[1]  # 100 ns; bytes of a frame
        # size, lowest, highest, raster, default, value
        self.controls = {MODE: [1, 1, 8, modes, 8, 8], TIME: [4, 1, 5000, 1, 100, 100]}
        if gain:
            self.controls[GAIN] = [2, 1, 64, 1, 1, 1]
        self.stream = struct.pack("<HBBIHHHHHII", 0, 1, 1, self.interval, 0, 0, 0, 0, 0, self.bytes, 16_384)
        self.requests, self.changed, self.answers = (
            collections.deque(),
            threading.Condition(),
            threading.Lock(),
        )
        self.closed, self.stalled, self.sent = False, False, 0

    def picture(self, exposure, gain=1):
        "Counts of 12 bits in 16, without noise."
        rates = (np.arange(self.height)[:, None] * 40.0 + np.arange(self.width) * 80 + 400) * 10
        return np.clip(64 + rates * exposure * gain, 0, 4095).astype("<u2")

    # What it is

    def configuration(self):
        terminal = struct.pack("<BBBBHBBHHHBBH", 18, 0x24, 2, 1, 0x0201, 0, 0, 0, 0, 0, 3, 0x0A, 0)
        unit = struct.pack("<BBBBBHBHB", 11, 0x24, 5, 2, 1, 0, 2, 0x0200 if GAIN in self.controls else 0, 0)
        output = struct.pack("<BBBBHBBB", 9, 0x24, 3, 3, 0x0101, 0, 2, 0)
        control = (
            struct.pack("<BBBHHIBB", 13, 0x24, 1, 0x0100, 13 + len(terminal + unit + output), 1_000_000, 1, 1)
            + terminal
            + unit
            + output
        )
        kind = (
            struct.pack("<BBBBB", 27, 0x24, 4, 1, 1)
            + self.fourcc.encode()
            + GUID
            + bytes([16, 1, 0, 0, 0, 0])
        )
        rate = self.bytes * 8 * (10_000_000 // self.interval)
        frame = struct.pack(
            "<BBBBBHHIIIIBI",
            30,
            0x24,
            5,
            1,
            0,
            self.width,
            self.height,
            rate,
            rate,
            self.bytes,
            self.interval,
            1,
            self.interval,
        )
        colour = bytes([6, 0x24, 0x0D, 1, 1, 4])
        head = (
            struct.pack(
                "<BBBBHBBBBBBB", 14, 0x24, 1, 1, 14 + len(kind + frame + colour), 0x81, 0, 3, 0, 0, 0, 1
            )
            + b"\0"
        )
        streaming = (
            bytes([9, 4, 1, 0, 1, 14, 2, 0, 0])
            + head
            + kind
            + frame
            + colour
            + struct.pack("<BBBBHB", 7, 5, 0x81, 2, 512, 0)
        )
        body = bytes([8, 11, 0, 2, 14, 3, 0, 2]) + bytes([9, 4, 0, 0, 0, 14, 1, 0, 2]) + control + streaming
        return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 2, 1, 0, 0x80, 250) + body

    def descriptor(self, kind, index):
        if kind == 1:
            return struct.pack(
                "<BBHBBBBHHHBBBB", 18, 1, 0x0200, 0xEF, 2, 1, 64, 0x1209, 1, 0x0100, 1, 2, 3, 1
            )
        if kind == 2:
            return self.configuration()
        if kind == 3 and index == 0:
            return bytes([4, 3, 9, 4])
        if kind == 3 and index in (1, 2, 3):
            name = ("debir_nb", "Emulated RAW camera", "0001")[index - 1].encode("utf-16-le")
            return bytes([2 + len(name), 3]) + name
        if kind == 6:
            return bytes([10, 6, 0, 2, 0xEF, 2, 1, 64, 1, 0])

    # What it is asked on its control pipe: the answer, b"" for done, None for a stall

    def control(self, setup, data):
        kind, request, value, index, length = struct.unpack("<BBHHH", setup)
        if kind & 0x60 == 0:
            if request == 6:
                return self.descriptor(value >> 8, value & 255)
            return {0: b"\0\0", 8: b"\1", 10: b"\0"}.get(request, b"")
        if index >> 8 == 0:
            return {SET: b"", INFO: b"\3", SIZE: struct.pack("<H", 26)}.get(request, self.stream)
        which = (index >> 8, value >> 8)
        if which not in self.controls:
            return None
        size, *numbers = self.controls[which]
        if request == SET:
            return self.change(which, int.from_bytes(data[:size], "little"))
        if request == SIZE:
            return struct.pack("<H", size)
        if request == INFO:
            return b"\x0b"  # can be read and set, and may change by itself
        return numbers[{LOWEST: 0, HIGHEST: 1, RASTER: 2, DEFAULT: 3, GET: 4}[request]].to_bytes(
            size, "little"
        )

    def change(self, which, value):
        _, low, high, *_ = self.controls[which]
        if which == MODE and not value & self.modes:
            return None
        if which == TIME and self.controls[MODE][5] != MANUAL:
            return None
        if which == TIME:
            value = max(round(value / self.step) * self.step, 1)
        self.controls[which][5] = min(max(value, low), high)
        return b""

    # USB/IP

    def answer(self, number, status, data=b"", length=None):
        head = struct.pack(
            ">IIIII iiiii 8x", 3, number, 0, 0, 0, status, len(data) if length is None else length, 0, 0, 0
        )
        with self.answers:
            self.socket.sendall(head + data)

    def receive(self, n):
        data = b""
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def serve(self):
        try:
            while True:
                self.request(self.receive(48))
        except (EOFError, OSError):
            pass
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def request(self, head):
        command, number, _, inward, endpoint = struct.unpack(">IIIII", head[:20])
        if command == 2:  # take a request back
            (victim,) = struct.unpack(">I", head[20:24])
            with self.changed:
                found = [request for request in self.requests if request[0] == victim]
                for request in found:
                    self.requests.remove(request)
            with self.answers:
                self.socket.sendall(struct.pack(">IIIII i 24x", 4, number, 0, 0, 0, -104 if found else 0))
            return
        length, setup = struct.unpack(">4xi12x8s", head[20:])
        data = self.receive(length) if length and not inward else b""
        if endpoint:
            with self.changed:
                self.requests.append((number, length))
                self.changed.notify_all()
            return
        reply = self.control(setup, data)
        if reply is None:
            self.answer(number, STALL)
        elif inward:
            self.answer(number, 0, reply[:length])
        else:
            self.answer(number, 0, b"", length)

    def next_request(self, patience=None):
        "A place for data that the driver offers, or None."
        with self.changed:
            if not self.requests and not self.closed:
                self.changed.wait(patience)
            return self.requests.popleft() if self.requests and not self.closed else None

    def film(self):
        "Frame after frame, in the order exposed; each is cut into the pieces that the driver asks for."
        toggle, pipe = 0, collections.deque(maxlen=self.latency + 1)
        while not self.closed:
            with self.changed:
                while (not self.requests or self.stalled) and not self.closed:
                    self.changed.wait(0.05)
            pipe.append((self.controls[TIME][5] * 1e-4, self.controls.get(GAIN, [1])[-1]))
            pixels = self.picture(*pipe[0]).tobytes()
            time.sleep(self.interval * 1e-7)
            while pixels and (offered := self.next_request(0.5)):
                piece, pixels = pixels[: min(offered[1], 16_384) - 2], pixels[min(offered[1], 16_384) - 2 :]
                try:
                    self.answer(offered[0], 0, bytes([2, 0x80 | toggle | (0 if pixels else 2)]) + piece)
                except OSError:
                    return
            if not pixels:
                toggle, self.sent = toggle ^ 1, self.sent + 1

    # In and out

    def plug(self, port=0):
        theirs, self.socket = socket.socketpair()
        self.port = port
        for work in (self.serve, self.film):
            threading.Thread(target=work, daemon=True).start()
        with open(PORTS + "attach", "w") as attach:
            attach.write(f"{port} {theirs.fileno()} {1 << 16 | 2 + port} 3")
        theirs.close()
        return self

    def unplug(self):
        if self.closed:
            return
        with open(PORTS + "detach", "w") as detach:
            detach.write(str(self.port))

    def __enter__(self):
        "Plugged in, with its device there."
        before = set(os.listdir("/dev"))
        self.plug()
        return self.appear(before)

    def appear(self, before):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            new = [name for name in sorted(set(os.listdir("/dev")) - before) if name.startswith("video")]
            if new:
                time.sleep(0.3)  # the second device, for metadata, follows the first
                self.path = f"/dev/{new[0]}"
                return self
            time.sleep(0.05)
        raise TimeoutError("the kernel made no video device of the camera")

    def __exit__(self, *exc):
        self.unplug()
        end = time.monotonic() + 10
        while os.path.exists(self.path) and time.monotonic() < end:
            time.sleep(0.05)
