"""Cameras on a cable: dials, faults and the library's traps, against the real ptp2 driver."""

import json
import os
import socket
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import gphoto2 as gp
import numpy as np
import pytest
from ptpip_camera import Emulator

from debir_nb.cameras import gphoto2
from debir_nb.cameras.gphoto2 import GPhoto2Camera, open_camera, raw_choice, seconds, sensitivity, ticks
from debir_nb.cameras.protocol import (
    CameraBusy,
    CameraError,
    CameraLost,
    CameraStorageFull,
    CaptureTimeout,
    ExposureRefused,
    NoCamera,
    NoRaw,
    Shot,
    choose,
    departure,
)
from debir_nb.light.dng import write_dng

THREE = [Shot(2e-3, 4)] * 3


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def emulator():
    with Emulator() as running:
        yield running


def taken(emulator, error, timeout=0.5, **fault):
    "The frames before an error, and the error; the camera is free afterwards."
    emulator.reset(**fault)
    frames = []
    # extend keeps what came before the error
    with pytest.raises(error) as caught, open_camera(f"gphoto2:{emulator.port}") as camera:
        frames.extend(camera.burst(THREE, timeout))
    assert emulator.released()
    return frames, str(caught.value)


@pytest.mark.parametrize(
    "text, value",
    [
        ("1/200", Fraction(1, 200)),
        ("30", 30),
        ("0.5", Fraction(1, 2)),
        ("13/10", Fraction(13, 10)),
        ("1/1.3", Fraction(10, 13)),
        ("0.0012s", Fraction(12, 10_000)),
        ("1/8000s", Fraction(1, 8000)),
        ("30.0000s", 30),
        ('1.6"', Fraction(8, 5)),
        ("1m", 60),
        ("2m30s", 150),
        ("1'30\"", 90),
        ("1'30", 90),
        ("15 min", 900),
        ("60m", 3600),
        ("1 minute", 60),
        ("1/60 sec", Fraction(1, 60)),
        ("m", None),
        ("0m", None),
        ("1m1/0", None),
        ("bulb", None),
        ("Bulb", None),
        ("Time", None),
        ("auto", None),
        ("x 200", None),
        ("Unknown value 0001", None),
        ("0", None),
        ("1/0", None),
        ("", None),
        ("-1", None),
    ],
)
def test_shutter_speeds(text, value):
    assert seconds(text) == value


def test_other_numbers():
    assert ticks("12") == seconds("0.0012s") and ticks("0") is ticks("Bulb") is None
    assert sensitivity("100") == sensitivity("ISO 100") == 1
    for other in ("Auto ISO", "0", "", "Lo 1", "100 Multi Frame NR"):
        assert sensitivity(other) is None


@pytest.mark.parametrize(
    "choices, chosen",
    [
        (["RAW", "mRAW", "sRAW", "RAW + Large Fine JPEG", "Large Fine JPEG"], "RAW"),
        (["NEF+Fine", "NEF (Raw)", "JPEG Fine"], "NEF (Raw)"),
        (["RAW & JPEG", "RAW", "Extra Fine"], "RAW"),
        (["RAW + JPEG Fine", "RAW Only"], "RAW Only"),
        (["Large Fine JPEG+RAW", "JPEG"], "Large Fine JPEG+RAW"),
        (["Draw", "Fine"], None),
        ([], None),
    ],
)
def test_raw_formats(choices, chosen):
    assert raw_choice(choices) == chosen


class Dials:
    "The controls of a camera that is not there: name -> [value, choices, may be set]."

    def __init__(self, **controls):
        self.controls = controls

    def get_single_config(self, name):
        if name not in self.controls:
            raise gp.GPhoto2Error(gp.GP_ERROR_BAD_PARAMETERS)
        value, choices, free = self.controls[name]
        widget = SimpleNamespace(value=value)
        return SimpleNamespace(
            get_value=lambda: widget.value,
            set_value=lambda v: setattr(widget, "value", v),
            get_choices=lambda: choices,
            get_type=lambda: gp.GP_WIDGET_RADIO,
            get_readonly=lambda: not free,
        )

    def set_single_config(self, name, widget):
        if self.controls[name][2]:
            self.controls[name][0] = widget.get_value()


def test_a_canon_and_a_nikon_are_taken_over():
    canon = Dials(
        autoexposuremode=["Manual", ["P", "Manual"], False],
        imageformat=["Large Fine JPEG", ["Large Fine JPEG", "RAW"], True],
        capturetarget=["Memory card", ["Internal RAM", "Memory card"], True],
        shutterspeed=["1/60", ["bulb", "1/30", "1/60"], True],
    )
    nikon = Dials(
        expprogram=["P", ["M", "P"], True],
        isoauto=["On", ["On", "Off"], True],
        imagequality=["JPEG Fine", ["JPEG Fine", "NEF (Raw)"], True],
        shutterspeed=["0.0001s", ["0.0001s"], True],
        shutterspeed2=["1/8000", ["1/8000", "1/4000"], True],
    )
    for camera in (canon, nikon):
        gphoto2._take_over(camera)
    assert [canon.controls[name][0] for name in ("imageformat", "capturetarget")] == ["RAW", "Internal RAM"]
    assert [nikon.controls[name][0] for name in ("expprogram", "isoauto", "imagequality")] == [
        "M",
        "Off",
        "NEF (Raw)",
    ]
    assert gphoto2._dial(canon, gphoto2.SPEEDS).texts == {Fraction(1, 30): "1/30", Fraction(1, 60): "1/60"}
    assert gphoto2._dial(nikon, gphoto2.SPEEDS).name == "shutterspeed2"


class Sony(Dials):
    "As libgphoto2 shows some bodies: ISO with a value and no list; what it does not have, it leaves as it was."

    def __init__(self, isos, iso="Auto ISO", refuses=False, free=True):
        super().__init__(iso=[iso, [], free], shutterspeed=["1/60", ["1/30", "1/60", "1/125"], True])
        self.isos, self.refuses, self.asked = isos, refuses, []

    def set_single_config(self, name, widget):
        if name == "iso":
            self.asked.append(widget.get_value())
            if widget.get_value() not in self.isos:
                if self.refuses:
                    raise gp.GPhoto2Error(gp.GP_ERROR_BAD_PARAMETERS)
                return
        super().set_single_config(name, widget)


@pytest.mark.parametrize("refuses", [False, True])
def test_an_iso_without_a_list_is_tried_and_read_back(refuses):
    have = [str(iso) for iso in (100, 125, 160, 200, 250, 320, 400, 500, 640, 800)]
    camera = Sony(have, refuses=refuses)
    dials = gphoto2._dials(camera)
    assert list(dials.iso.texts.values()) == have and len(camera.asked) < 40
    assert dials.set(camera, Shot(1 / 60, 4)) == (Fraction(1, 60), 400)
    assert camera.controls["iso"][0] == "400"
    assert gphoto2._capabilities(named(camera), dials).gains.values == tuple(int(iso) / 100 for iso in have)


def test_an_exposure_time_without_a_list_is_tried_too():
    camera = Sony(["100"])
    camera.controls["shutterspeed"] = ["1/60", [], True]
    assert gphoto2._dials(camera).time.set(camera, 1 / 500) == Fraction(1, 500)
    camera.controls["shutterspeed"] = ["Bulb", [], False]
    with pytest.raises(ExposureRefused, match="no exposure times to choose from"):
        gphoto2._dials(camera)


def named(camera):
    camera.get_abilities = lambda: SimpleNamespace(model="Sony")
    return camera


@pytest.mark.parametrize("free", [False, True])
def test_an_iso_that_stays_automatic_is_named(free):
    with pytest.raises(ExposureRefused, match="control iso stands at 'Auto ISO'.*set the ISO on the camera"):
        gphoto2._dials(Sony([], free=free))


def test_an_iso_that_a_hand_has_set_is_the_files_affair():
    assert gphoto2._dials(Sony([], iso="400", free=False)).iso is None


def test_a_camera_that_never_falls_silent_is_not_heard_out_for_ever(monkeypatch):
    monkeypatch.setattr(gphoto2, "SETTLING", 0.05)
    spoken = []
    talker = SimpleNamespace(wait_for_event=lambda ms: spoken.append(ms) or (gp.GP_EVENT_UNKNOWN, "news"))
    gphoto2._settle(talker)
    assert spoken


@pytest.mark.parametrize(
    "error, controls",
    [
        (ExposureRefused, dict(expprogram=["P", ["M", "P"], False])),
        (ExposureRefused, dict(autoexposuremode=["TV", ["TV"], True])),
        (ExposureRefused, dict(isoauto=["On", ["On", "Off"], False])),
        (NoRaw, dict(imagequality=["Fine", ["Fine", "Basic"], True])),
        (NoRaw, dict(imageformat=["JPEG", ["JPEG", "RAW"], False])),
    ],
)
def test_what_cannot_be_taken_over(error, controls):
    with pytest.raises(error):
        gphoto2._take_over(Dials(**controls))


@pytest.mark.parametrize(
    "fault, error, words",
    [
        ("lost_event", CaptureTimeout, "did not come"),
        ("store_full", CameraStorageFull, "full"),
        ("refused", CameraError, "refuses"),
        ("truncated", NoRaw, "cut short"),
        ("jpeg", NoRaw, "JPG"),
        ("unplug", CameraLost, "answer"),
    ],
)
def test_a_fault_in_the_middle_of_a_burst(emulator, fault, error, words):
    frames, message = taken(emulator, error, faults={1: fault})
    assert len(frames) == 1 and frames[0].achieved == Shot(2e-3, 4) and words in message
    emulator.reset()
    with open_camera(f"gphoto2:{emulator.port}") as camera:
        assert len(list(camera.burst(THREE))) == 3  # well again


@pytest.mark.parametrize(
    "operation",
    [
        "1001",  # what kind of camera is it?
        "1004",  # which cards has it?
        "1014",  # what can be set?
        "1016",  # set it
        "100e",  # release the shutter
        "1009",  # give the file
        "100b",  # delete it
        "event",  # what is new?
        "1005",  # how much room is left? asked since a capture was refused
    ],
)
def test_a_camera_that_answers_drop_by_drop_is_hung_up_on(emulator, monkeypatch, operation):
    "Each wait of the driver for a byte is short; without the watch they last until this camera ends them, 40 s."
    for name in ("OPENING", "TRANSFER"):
        monkeypatch.setattr(gphoto2, name, 1)
    start = time.monotonic()
    came, said = taken(
        emulator, CameraError, 2, drip=operation, faults={0: "refused"} if operation == "1005" else {}
    )
    assert not came and time.monotonic() - start < 20
    # while this camera tells news drop by drop it answers nothing, which the driver itself gives up on
    assert "not over after" in said or operation == "event"


def test_the_answer_to_goodbye_is_not_waited_for(emulator):
    emulator.reset(drip="1003")
    start = time.monotonic()
    with open_camera(f"gphoto2:{emulator.port}") as camera:
        assert len(list(camera.burst(THREE, 2))) == 3
    assert time.monotonic() - start < 20


def test_hanging_up_leaves_others_alone(monkeypatch):
    "Neither other sockets nor a file's lock."
    asked = []
    monkeypatch.setattr(gphoto2.fcntl, "ioctl", lambda device, what: asked.append((device.name, what)))
    gphoto2._cut("usb:001,099")  # a device that is not there
    assert not asked
    listener, near = socket.create_server(("127.0.0.1", 0)), []
    near = [socket.create_connection(listener.getsockname()) for _ in range(2)]
    far = [listener.accept()[0] for _ in range(2)]
    host, port = listener.getsockname()
    gphoto2._cut(f"ptpip:{host}:{port + 1}:{port + 1}")
    gphoto2._cut("ptpip:no.such.host.invalid")
    near[0].sendall(b"1")
    assert far[0].recv(1) == b"1"
    gphoto2._cut(f"ptpip:{host}:{port}:{port}")
    assert [line.recv(1) for line in (*near, *far)] == [b""] * 4
    for line in (*near, *far, listener):
        line.close()


def test_a_camera_that_stays_busy(emulator):
    frames, message = taken(emulator, CameraBusy, faults={1: "always_busy"})
    assert len(frames) == 1 and "occupied" in message


def test_a_camera_that_is_busy_for_a_moment(emulator):
    emulator.reset(faults={1: "busy"})
    with open_camera(f"gphoto2:{emulator.port}") as camera:
        assert len(list(camera.burst(THREE, 2))) == 3


def test_nobody_there(emulator):
    with pytest.raises(NoCamera, match="nobody answers"):
        open_camera("gphoto2:ptpip:127.0.0.1:9:9").__enter__()
    with pytest.raises(NoCamera, match="plug it in"):
        open_camera("gphoto2:usb:001,099").__enter__()
    with pytest.raises(NoCamera):
        choose({}, "gphoto2")
    with pytest.raises(NoCamera, match="name one"):
        choose({"gphoto2:usb:001,004": "one", "gphoto2:usb:001,005": "two"}, "gphoto2")


def test_somebody_else_holds_it(emulator):
    emulator.reset()
    with open_camera(f"gphoto2:{emulator.port}") as first:
        with pytest.raises(CameraBusy):
            open_camera(f"gphoto2:{emulator.port}").__enter__()
        assert len(list(first.burst(THREE))) == 3  # undisturbed
    assert emulator.released()


def test_automatic_exposure_that_cannot_be_switched_off(emulator):
    frames, message = taken(emulator, ExposureRefused, program=2)
    assert not frames and "dial" in message


def test_the_frame_tells_what_a_driver_changed_silently(emulator):
    emulator.reset(steps=[100, 200])
    with open_camera(f"gphoto2:{emulator.port}") as camera:
        frame = camera.preview(Shot(4e-3, 4))
    assert frame.achieved == Shot(0.01, 4) and departure(Shot(4e-3, 4), frame.achieved) > 1


def test_the_file_beats_the_dial(emulator):
    emulator.reset(nominal="31/32")
    with open_camera(f"gphoto2:{emulator.port}") as camera:
        frame = camera.preview(Shot(8e-3, 1))
    assert frame.known_by == "EXIF" and frame.photo.exposure == Fraction(80, 10_000) * Fraction(31, 32)


def test_without_exif_the_dial_is_read_back(emulator):
    emulator.reset(faults={0: "no_exif"}, steps=[100, 200])
    with open_camera(f"gphoto2:{emulator.port}") as camera:
        silent, telling = camera.burst([Shot(4e-3, 4)] * 2)
    assert (silent.known_by, telling.known_by) == (
        "read back",
        "EXIF",
    ) and silent.achieved == telling.achieved == Shot(0.01, 4)


def test_without_control_of_iso_the_files_tell_it(emulator):
    emulator.reset(missing=["EXPOSURE_INDEX"])
    with open_camera(f"gphoto2:{emulator.port}") as camera:
        assert len(camera.capabilities.gains.values) == 1
        assert camera.preview(Shot(4e-3, 64)).achieved == Shot(4e-3, 1)
    emulator.reset(missing=["EXPOSURE_INDEX"], faults={0: "no_exif"})
    with pytest.raises(CameraError, match="ISO"), open_camera(f"gphoto2:{emulator.port}") as camera:
        camera.preview(Shot(4e-3))


def test_late_news_of_an_earlier_frame_is_not_taken_for_the_next(emulator):
    emulator.reset(faults={0: "late_event"})
    with open_camera(f"gphoto2:{emulator.port}") as camera:
        with pytest.raises(CaptureTimeout):
            camera.preview(Shot(8e-3), timeout=0.2)
        emulator.wait_for(objects=1)
        assert camera.preview(Shot(1e-3)).achieved == Shot(1e-3, 1)


VIRTUAL = """
import json, sys
from debir_nb.cameras.protocol import CaptureTimeout, Shot
from debir_nb.cameras.gphoto2 import find_cameras, open_camera
found, taken = find_cameras(), []
address, = found
with open_camera(address) as camera:
    can = camera.capabilities
    try:
        while True: taken += camera.burst([Shot(1/30)], timeout=1)
    except CaptureTimeout: pass
with open_camera(address) as camera: pass
frames = [[f.known_by, f.achieved.exposure, f.achieved.gain, int(f.photo.mosaic.sum()), len(f.file)] for f in taken]
print(json.dumps([found, can.exposures.values, can.gains.values, frames]))
"""


def test_the_librarys_own_virtual_camera(tmp_path):
    """Its 'captures' are copies of a file whose name contains .jpg; it has no ISO, and its card holds 26
    pictures, after which it says yes and takes none.
    """
    counts = np.random.default_rng(0).integers(0, 4096, (32, 48), np.uint16)
    (tmp_path / "card").mkdir()
    write_dng(tmp_path / "card" / "frame.jpg.dng", counts, exposure=1 / 50, iso=400, white=4095)
    env = {
        **os.environ,
        "VCAMERADIR": str(tmp_path / "card"),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", VIRTUAL], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, exposures, gains, frames = json.loads(done.stdout.splitlines()[-1])
    assert list(found.values()) == ["Nikon DSC D750"] and 0.0012 in exposures and gains == [1]
    size = (tmp_path / "card" / "frame.jpg.dng").stat().st_size
    assert len(frames) == 26 and {tuple(frame) for frame in frames} == {
        ("EXIF", 0.02, 4.0, int(counts.sum()), size)
    }


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gphoto2", None)
    for needs_it in (gphoto2.find_cameras, GPhoto2Camera("gphoto2:usb:001,004").__enter__):
        with pytest.raises(ImportError, match=r"debir_nb\[gphoto2\]"):
            needs_it()
