"""A camera on 127.0.0.1 that speaks PTP/IP (ISO 15740; CIPA DC-005): libgphoto2's real `ptp2` driver connects, sets, triggers and downloads.

It runs in a process of its own, because the driver keeps Python's interpreter locked while it waits for an answer. Its DNG files hold what a sensor would
have recorded at the exposure time and ISO that the driver really set. `PtpCamera` is the camera, `Emulator` the handle that a test holds: commands and
answers are lines of JSON on the process's standard input and output, and when the input ends, so does the process.
"""

import json
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

TICK = Fraction(1, 10_000)  # the unit of PTP's ExposureTime, s
SHUTTER = [
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    12,
    16,
    20,
    25,
    31,
    40,
    50,
    63,
    80,
    100,
    125,
    167,
    200,
    250,
    333,
    400,
    500,
    667,
    1000,
    2000,
    5000,
    10_000,
]  # TICK
ISO = [
    100,
    125,
    160,
    200,
    250,
    320,
    400,
    500,
    640,
    800,
    1000,
    1250,
    1600,
    2000,
    2500,
    3200,
    4000,
    5000,
    6400,
    8000,
    10_000,
    12_800,
    16_000,
    20_000,
    25_600,
    32_000,
    40_000,
    51_200,
    64_000,
]
BLACK, WHITE = 512, 4095
EXPOSURE_TIME, EXPOSURE_INDEX, EXPOSURE_PROGRAM, F_NUMBER, BATTERY = 0x500D, 0x500F, 0x500E, 0x5007, 0x5001
DNG, JPEG = 0x3811, 0x3801
OK, GENERAL_ERROR, UNSUPPORTED, NO_OBJECT, NO_PROPERTY = 0x2001, 0x2002, 0x2005, 0x2009, 0x200A
STORE_FULL, READ_ONLY, BUSY, BAD_VALUE = 0x200C, 0x200F, 0x2019, 0x201C
REFUSALS = {"store_full": STORE_FULL, "busy": BUSY, "always_busy": BUSY, "refused": GENERAL_ERROR}


def text(s):
    return bytes([len(s) + 1]) + (s + "\0").encode("utf-16-le") if s else b"\0"


def array(code, values):
    return struct.pack(f"<I{len(values)}{code}", len(values), *values)


def packet(kind, payload=b""):
    return struct.pack("<II", 8 + len(payload), kind) + payload


def send_in_drops(sock, data, seconds=40):
    "A packet that claims to be longer than it is, a byte now and then."
    claimed, end = struct.pack("<I", 2**20 + len(data)) + data[4:], time.monotonic() + seconds
    for byte in claimed + bytes(2**20):
        if time.monotonic() > end:
            break
        sock.sendall(bytes([byte]))
        time.sleep(0.1)
    sock.close()


def receive(sock):
    "One packet: its kind and payload."

    def exactly(n):
        data = b""
        while len(data) < n:
            # libgphoto2 writes in small pieces and waits for each to be acknowledged
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            part = sock.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    size, kind = struct.unpack("<II", exactly(8))
    return kind, exactly(size - 8)


class Sensor:
    """What the pixels see: a scene that reaches saturation at `full` seconds of ISO 100, with the noise of
    the published ISO model if `noise`.
    """

    def __init__(self, scene=None, full=0.1, noise=False, pattern="RGGB"):
        import torch

        from debir_nb.core import generator

        torch.set_num_threads(1)
        if scene:
            self.scene = torch.load(scene)
        else:
            self.scene = (
                (torch.arange(48)[:, None] + 2 * torch.arange(32))[None].expand(4, -1, -1)
                / 150
                * torch.tensor([0.5, 1, 0.9, 0.6])[:, None, None]
            )
        self.full, self.noise, self.pattern, self.draws = full, noise, pattern, generator(0)

    def expose(self, exposure, iso, pattern=None, size=None):
        "DNG of one exposure, s."
        import torch

        from debir_nb.light.degradation import add_noise, iso_noise
        from debir_nb.light.dng import to_counts, write_dng

        light = self.scene * float(exposure) * iso / 100 / self.full
        if size:
            light = light[:, :size, :size]
        shot, read = iso_noise(torch.tensor(iso / 100))
        if self.noise:
            light = add_noise(light, shot, read, self.draws)
        pattern = pattern or self.pattern
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.dng"
            levels = dict(black=BLACK, white=WHITE, pattern=pattern)
            write_dng(
                path,
                to_counts(light, **levels),
                exposure=exposure,
                iso=iso,
                noise=(shot.item(), read.item()),
                **levels,
            )
            return path.read_bytes()


def without_exif(data):
    "The file with its pointer to the Exif directory renamed to a tag that nobody reads."
    (start,) = struct.unpack_from("<I", data, 4)
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, at)[0] == 34665:
            return data[:at] + struct.pack("<H", 34666) + data[at + 2 :]
    raise ValueError("no Exif directory")


class PtpCamera:
    """`faults` maps the number of a shot to what goes wrong with it. The other options say what kind of
    camera it is:
    `missing` properties, `program` (1 is manual; others are fixed to their own exposure), `steps` (every
    set exposure falls silently to one of these,
    TICK), `nominal` (the true exposure over the marked one, which only the file knows), `drip` (the operation,
    in hexadecimal digits, or event, whose packets come drop by drop once `drops_after` frames are taken), `mutate` (the seed
    of what happens to its packets on the way).
    """

    def __init__(
        self,
        faults=None,
        missing=(),
        program=1,
        steps=None,
        nominal="1",
        drip="",
        drops_after=0,
        mutate=None,
        **sensor,
    ):
        self.drip, self.drops_after = drip, drops_after
        self.mutations = None if mutate is None else random.Random(mutate)
        self.faults = {int(n): what for n, what in (faults or {}).items()}
        self.steps, self.nominal, self.sensor = steps, Fraction(nominal), Sensor(**sensor)
        manual = program == 1
        self.properties = {  # code: [type, writable, value, choices]
            EXPOSURE_TIME: ["I", manual, 100, SHUTTER],
            EXPOSURE_INDEX: ["H", True, 100, ISO],
            EXPOSURE_PROGRAM: ["H", manual, program, [1, 2, 3, 4] if manual else [program]],
            F_NUMBER: ["H", True, 280, [280, 400]],
            BATTERY: ["B", False, 80, None],
        }
        for name in missing:
            del self.properties[globals()[name]]
        self.objects, self.shots, self.sockets, self.events, self.connected, self.full = (
            {},
            [],
            [],
            None,
            False,
            False,
        )

    # Packets

    def send(self, sock, kind, payload=b"", drips=False):
        data = packet(kind, payload)
        if self.mutations and self.mutations.random() < 0.04:
            from fuzzing import mutated  # not where a notebook looks for modules

            data = mutated(data, self.mutations)
        send_in_drops(sock, data) if drips else sock.sendall(data)

    def serve(self, sock):
        "One connection: the command channel, or the one for events."
        self.sockets.append(sock)
        mine = False
        try:
            kind, _ = receive(sock)
            if kind == 3:
                self.events = sock
                return self.send(sock, 4)
            if self.connected:
                return self.send(sock, 5, struct.pack("<I", 2))  # busy with somebody else
            self.connected = mine = True
            self.send(
                sock,
                2,
                struct.pack("<I", 1)
                + bytes(16)
                + "Emulator\0".encode("utf-16-le")
                + struct.pack("<I", 0x10000),
            )
            while True:
                self.operation(sock)
        except (EOFError, OSError):
            pass
        finally:
            if mine:
                self.connected = False
            if sock is not self.events:
                sock.close()

    def operation(self, sock):
        kind, payload = receive(sock)
        if kind != 6:
            return
        phase, code, number = struct.unpack_from("<IHI", payload)
        arguments, data = struct.unpack(f"<{(len(payload) - 10) // 4}I", payload[10:]), b""
        if phase == 2:
            while kind != 12:
                kind, part = receive(sock)
                data += part[4:] if kind in (10, 12) else b""
        answer = getattr(self, f"op_{code:04x}", None)
        result, out, then = (answer(*arguments, data=data) if answer else UNSUPPORTED), None, None
        if isinstance(result, bytes):
            result, out = OK, result
        if isinstance(result, tuple):
            result, then = result
        drips = self.drip == f"{code:04x}" and len(self.shots) >= self.drops_after
        if out is not None:
            self.send(sock, 9, struct.pack("<IQ", number, len(out)))
            self.send(sock, 12, struct.pack("<I", number) + out, drips)
        self.send(sock, 7, struct.pack("<HI", result, number), drips)
        if then:
            then()

    def event(self, code, *arguments):
        payload = struct.pack(f"<HI{len(arguments)}I", code, 0xFFFFFFFF, *arguments)
        self.send(self.events, 8, payload, self.drip == "event")

    def unplug(self):
        for sock in self.sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()

    # Operations: bytes are data with OK, a number is a response code, a pair is a code and what happens after
    # the answer

    def op_1001(self, *_, data):  # GetDeviceInfo
        operations = [int(name[3:], 16) for name in dir(self) if name.startswith("op_")]
        return (
            struct.pack("<HIH", 100, 0, 100)
            + text("")
            + struct.pack("<H", 0)
            + array("H", operations)
            + array("H", [0x4002, 0x4006, 0x400D])
            + array("H", list(self.properties))
            + array("H", [DNG])
            + array("H", [DNG, JPEG])
            + text("debir_nb")
            + text("PTP/IP emulator")
            + text("1")
            + text("1")
        )

    def op_1002(self, *_, data):
        return OK  # OpenSession

    def op_1003(self, *_, data):
        return OK  # CloseSession

    def op_1004(self, *_, data):
        return array("I", [0x10001])  # GetStorageIDs

    def op_1005(self, *_, data):  # GetStorageInfo
        return (
            struct.pack("<HHHQQI", 4, 3, 0, 1 << 34, 0 if self.full else 1 << 33, 0 if self.full else 999)
            + text("card")
            + text("card")
        )

    def op_1007(self, storage, kind=0, parent=0, *_, data):
        return array("I", list(self.objects) if parent in (0, 0xFFFFFFFF) else [])  # GetObjectHandles

    def op_1008(self, handle, *_, data):  # GetObjectInfo
        if handle not in self.objects:
            return NO_OBJECT
        name, kind, contents = self.objects[handle]
        when = "20260101T000000"
        return (
            struct.pack("<IHHIHIIIIIIIHII", 0x10001, kind, 0, len(contents), *[0] * 11)
            + text(name)
            + text(when)
            + text(when)
            + text("")
        )

    def op_1009(self, handle, *_, data):
        return self.objects[handle][2] if handle in self.objects else NO_OBJECT  # GetObject

    def op_101b(self, handle, start, size, *_, data):  # GetPartialObject
        return self.objects[handle][2][start : start + size] if handle in self.objects else NO_OBJECT

    def op_100b(self, handle, *_, data):  # DeleteObject
        return OK if self.objects.pop(handle, None) else NO_OBJECT

    def op_1014(self, code, *_, data):  # GetDevicePropDesc
        if code not in self.properties:
            return NO_PROPERTY
        kind, writable, value, choices = self.properties[code]
        described = struct.pack(f"<HHB2{kind}", code, {"B": 2, "H": 4, "I": 6}[kind], writable, value, value)
        return described + (
            b"\0" if choices is None else struct.pack(f"<BH{len(choices)}{kind}", 2, len(choices), *choices)
        )

    def op_1015(self, code, *_, data):  # GetDevicePropValue
        if code not in self.properties:
            return NO_PROPERTY
        return struct.pack("<" + self.properties[code][0], self.properties[code][2])

    def op_1016(self, code, *_, data):  # SetDevicePropValue
        if code not in self.properties:
            return NO_PROPERTY
        kind, writable, _, choices = self.properties[code]
        (value,) = struct.unpack("<" + kind, data)
        if not writable:
            return READ_ONLY
        if choices and value not in choices:
            return BAD_VALUE
        if code == EXPOSURE_TIME and self.steps:
            value = min(self.steps, key=lambda step: abs(step - value))
        self.properties[code][2] = value
        return OK, lambda: self.event(0x4006, code)

    def op_100e(self, *_, data):  # InitiateCapture
        fault = self.faults.get(len(self.shots))
        if fault in REFUSALS:
            self.full = fault == "store_full"
            if fault != "always_busy":
                del self.faults[len(self.shots)]
            return REFUSALS[fault]
        return OK, lambda: threading.Thread(target=self.capture, args=(fault,), daemon=True).start()

    def capture(self, fault):
        if fault == "unplug":
            return self.unplug()
        exposure, iso = (
            self.properties[EXPOSURE_TIME][2] * TICK,
            self.properties.get(EXPOSURE_INDEX, [0, 0, 100])[2],
        )
        true = exposure * self.nominal
        time.sleep(float(true) + (0.5 if fault == "late_event" else 0))
        options = {"other_cfa": {"pattern": "BGGR"}, "other_size": {"size": 24}}.get(fault, {})
        name, kind, contents = f"IMG_{len(self.shots):04}.DNG", DNG, self.sensor.expose(true, iso, **options)
        if fault == "truncated":
            contents = contents[: len(contents) // 2]
        if fault == "no_exif":
            contents = without_exif(contents)
        if fault == "jpeg":
            name, kind, contents = f"IMG_{len(self.shots):04}.JPG", JPEG, b"\xff\xd8\xff\xe0" + bytes(500)
        handle = 16 + len(self.shots)
        self.objects[handle] = name, kind, contents
        self.shots.append((float(true), iso))
        if fault == "lost_event":
            return
        try:
            self.event(0x4002, handle), self.event(0x400D)
        except OSError:
            pass


def main():
    """Serve until standard input ends: {'reset': options} gives a new camera at the same port, {'log': null}
    tells what happened to it.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    camera = PtpCamera()

    def accept():
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=camera.serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print(json.dumps(listener.getsockname()[1]), flush=True)
    for line in sys.stdin:
        (command,) = json.loads(line).items()
        if command[0] == "reset":
            camera.unplug()
            camera = PtpCamera(**command[1])
        print(
            json.dumps(
                {"shots": camera.shots, "connected": camera.connected, "objects": len(camera.objects)}
            ),
            flush=True,
        )


class Emulator:
    "The camera's process, and the port that a driver finds it at."

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env={"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        )
        number = json.loads(self.process.stdout.readline())
        # twice: the port of events is 15740 where only one is given
        self.port = f"ptpip:127.0.0.1:{number}:{number}"
        return self

    def __exit__(self, *exc):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, command, options=None):
        self.process.stdin.write(json.dumps({command: options}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def reset(self, **options):
        return self.ask("reset", options)

    def log(self):
        return self.ask("log")

    def wait_for(self, **state):
        "Whether the log comes to say so; the camera's side may take a moment."
        for _ in range(100):
            if state.items() <= self.log().items():
                return True
            time.sleep(0.05)
        return False

    def released(self):
        "Whether the driver has let go."
        return self.wait_for(connected=False)


if __name__ == "__main__":
    main()
