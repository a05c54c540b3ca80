"A short and a long exposure by a camera: times and gains by the light, files as they come, and one picture at the end."

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from debir_nb.cameras import cli, commands
from debir_nb.cameras.capture import capture
from debir_nb.cameras.files import raw_files
from debir_nb.cameras.protocol import CameraLost, ExposureRefused, Range, Steps
from debir_nb.cameras.short_then_long import BRIGHT, capture_short_long, pair_shots
from debir_nb.cameras.simulated import FREE, SimulatedCamera, open_camera, third_stops
from debir_nb.core import PREVIEW_TIME, T_MIN, generator
from debir_nb.light.dng import normalise, read_raw
from debir_nb.light.raw import random_colour
from debir_nb.light.simulator import collect
from debir_nb.policies.rules import bracket

BOTH = [0.2 / 30, 0.2]  # s
BODY = replace(FREE, exposures=third_stops(1 / 8000, 1.0), gains=third_stops(1, 1024))


def grey(mean, ticks=220):
    "An even scene."
    return collect(torch.full((1, ticks, 4, 16, 16), mean))


def camera(mean=0.1, k=PREVIEW_TIME * 40, kind=SimulatedCamera, **settings):
    settings = {"noise": lambda gain: (0 * gain, 0 * gain)} | settings
    return kind(grey(mean), random_colour(1, generator(1)), k, **settings)


@pytest.mark.parametrize("value", 2.0 ** np.arange(-7, 4))
def test_a_pair_is_one_to_thirty_at_four_times_the_iso(value):
    short, long = pair_shots(BOTH, value, replace(BODY, exposures=Range(1e-5, 1), gains=Range(1, 4096)))
    assert abs(long.exposure / short.exposure / 30 - 1) < 1e-6
    assert abs(short.gain / long.gain / 4 - 1) < 1e-6 and abs(long.value / value / BRIGHT - 1) < 1e-6
    assert long.exposure <= 0.2 + 1e-9 and long.gain >= 1 - 1e-9
    assert math.isclose(long.exposure, 0.2) or math.isclose(long.gain, 1.0)  # light is paid for in gain first


@pytest.mark.parametrize("value", 2.0 ** np.arange(-6, 4))
def test_on_a_dial_brightness_is_held_within_the_tolerance(value):
    short, long = pair_shots(BOTH, value, BODY)
    for shot, bright in ((short, BRIGHT * 4 / 30 * value), (long, BRIGHT * value)):
        assert shot.exposure in BODY.exposures.values and shot.gain in BODY.gains.values
        # the short one's is measured against the long one that there is, which is off by as much
        assert abs(math.log2(shot.value / bright)) <= 2 / 6 + 1e-6


@pytest.mark.parametrize(
    "tolerance, can, why",
    [
        (None, Steps((1 / 60, 1 / 30)), "no pair|at least 4 times as long"),
        (1 / 6, Range(T_MIN, 0.2), "over 0.17"),
    ],
)
def test_a_camera_that_cannot_is_refused_before_anything_is_taken(tmp_path, tolerance, can, why):
    bright = camera(0.4, 40 * T_MIN, capabilities=replace(FREE, exposures=can, gains=Range(32.0, 64.0)))
    with pytest.raises(ExposureRefused, match=why):
        capture_short_long(bright, tmp_path / "pair", tolerance=tolerance)
    said = json.loads((tmp_path / "pair/manifest.json").read_text())
    assert not said["complete"] and said["frames"] == [] and not list((tmp_path / "pair").glob("frame_*"))


def test_both_frames_are_as_bright_as_asked(tmp_path):
    taken = capture_short_long(camera(capabilities=BODY), tmp_path / "pair")
    means = [float(normalise(read_raw(tmp_path / f"pair/frame_{k}.dng")).mean()) for k in (1, 2)]
    preview = float(normalise(taken.previews[-1].photo).mean())
    for mean, shot in zip(means, taken.shots):
        assert abs(mean / preview / (shot.value / taken.value) - 1) < 0.02
    assert 0.15 < means[1] < 0.25 and abs(means[1] / means[0] / 7.5 - 1) < 0.3
    said = json.loads((tmp_path / "pair/manifest.json").read_text())
    assert said["complete"] and [row["file"] for row in said["frames"]] == ["frame_1.dng", "frame_2.dng"]
    assert np.allclose(said["wanted_exposures"], BOTH)
    assert taken.frames[0].start < taken.frames[1].start


def test_a_burst_is_as_it_was(tmp_path):
    "Capture has learned a second kind of brightness; the first is the default."
    taken = capture(camera(), bracket(4), tmp_path / "burst")
    assert all(abs(math.log2(shot.value / taken.value)) < 1e-6 for shot in taken.shots)


def test_by_the_command_line_the_pair_is_restored_as_pair_does(tmp_path, capsys):
    folder = tmp_path / "pair"
    cli.main(["capture", "--pair", "--long", "0.1", "--out", str(folder)])
    said = capsys.readouterr().out
    assert "100.00 ms" in said and "by exposure times" in said
    assert {p.name for p in folder.iterdir() if p.is_file()} >= {
        "frame_1.dng",
        "frame_2.dng",
        "manifest.json",
        "pair.png",
        "pair.dng",
    }
    again = tmp_path / "again.png"
    cli.main(["pair", str(folder / "frame_2.dng"), str(folder / "frame_1.dng"), "-o", str(again)])
    assert again.read_bytes() == (folder / "pair.png").read_bytes()
    # the folder is a capture: restored files beside the frames are not taken for frames
    assert [p.name for p in raw_files(folder)] == ["frame_1.dng", "frame_2.dng"]


class Unplugged(SimulatedCamera):
    "A camera whose cable comes off before the long frame."

    def burst(self, shots, timeout=10.0):
        yield from super().burst(shots[:1])
        raise CameraLost("the camera does not answer any more")


def test_the_short_frame_stays_when_the_long_one_does_not_come(tmp_path, monkeypatch):
    lost = camera(kind=Unplugged)
    monkeypatch.setattr(commands, "open_camera", lambda address: lost)
    with pytest.raises(SystemExit, match="does not answer.*\n1 frames are kept"):
        cli.main(["capture", "--pair", "--out", str(tmp_path / "pair")])
    said = json.loads((tmp_path / "pair/manifest.json").read_text())
    assert not said["complete"] and [row["file"] for row in said["frames"]] == ["frame_1.dng"]
    assert not list((tmp_path / "pair").glob("pair.*"))
    with lost:
        pass  # released


@pytest.mark.parametrize("long", ["0", "-1", "nan", "x"])
def test_a_long_exposure_is_above_0(tmp_path, long, capsys):
    with pytest.raises(SystemExit):
        cli.main(["capture", "--pair", f"--long={long}", "--out", str(tmp_path / "pair")])
    assert "not a number above 0" in capsys.readouterr().err and not (tmp_path / "pair").exists()
    with pytest.raises(ValueError, match="above 0"):
        capture_short_long(open_camera(), tmp_path / "pair", math.nan)
