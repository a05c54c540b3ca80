"""V4L2 cameras behind the kernel's real drivers, `vivid` and `uvcvideo`, in a virtual machine. Deselected by default: make test-camera."""

import json

import pytest
from camera_guest import Unavailable, prepare

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    "One boot; check -> what it found."
    try:
        guest = prepare()
    except Unavailable as reason:
        pytest.skip(f"no virtual machine here: {reason}")
    results = tmp_path_factory.mktemp("guest")
    code, console = guest.run("tests/guest_cameras.py", results=results, timeout=400)
    output = (results / "output").read_text() if (results / "output").exists() else ""
    assert code == 0, f"the guest ended with {code}\n{console[-3000:]}\n{output[-3000:]}"
    return {line["check"]: line for line in map(json.loads, (results / "checks").read_text().splitlines())}


@pytest.fixture
def found(checks, request):
    "What the check of the test's name found."
    line = checks[request.node.name.removeprefix("test_")]
    assert "failed" not in line, line.get("failed")
    return line["found"]


def test_vivid(found):
    assert {name[1:5] for name in found} == {"RGGB", "BGGR", "GRBG", "GBRG"} and {
        name[5:] for name in found
    } == {"8", "10", "12", "16"}
    for name, (shape, brightest, ordered, blue_over_red) in found.items():
        bits = int(name[5:])
        assert min(shape) > 100 and ordered and 0.7 * 2**bits < brightest < 2**bits
        assert blue_over_red < 0.3  # in a yellow bar, so that the order of the tile is right


def test_bracket(found):
    assert found["exact"] == [True] * 6 and {
        abs(black - 64) <= 1 for row in found["black"] for black in row
    } == {True}
    assert [[round(exposure * 1e4), gain] for exposure, gain in found["achieved"]] == [
        [10, 1],
        [20, 1],
        [40, 1],
        [40, 4],
        [500, 1],
        [10, 1],
    ]
    assert (
        found["ratio"] < 1.02
        and found["settle"] >= 3
        and found["starts"] == sorted(found["starts"])
        and (found["pattern"], found["bits"]) == ("RGGB", 16)
    )


def test_stale(found):
    # s; a frame from the buffers would be older than a second
    assert found["exact"] == [True] * 3 and found["age"] > -0.2


def test_changed_silently(found):
    assert found == {"achieved": 3e-3, "exact": True}


def test_no_gain(found):
    assert found == {"gains": [1.0], "achieved": 1.0}


def test_automatic(found):
    assert found == "ExposureRefused"


def test_no_raw(found):
    assert found == ["NoRaw", False]


def test_two(found):
    assert found == {"found": 2, "busy": "CameraBusy", "exact": True}


def test_stall(found):
    assert (
        found["taken"] == [True]
        and found["error"] == "CaptureTimeout"
        and found["waited"] < 60
        and found["after"]
    )


def test_unplug(found):
    assert found == {"taken": [True], "error": "CameraLost", "left": [], "again": True, "gone": "NoCamera"}


def test_many(found):
    (handles, memory), (handles_later, memory_later) = found["states"]
    assert found["wrong"] == 0 and handles_later == handles and memory_later - memory < 8000  # KB
