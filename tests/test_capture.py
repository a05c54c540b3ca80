"A capture keeps what it took: the manifest equals the files, and every fault leaves the frames so far, a reason, and a camera that can be opened again."

import json
import math
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from debir_nb.cameras.capture import SIDE, Capture, capture, centre, choose_exposures, seen_by_policy
from debir_nb.cameras.files import raw_files, read_burst, restore_folder
from debir_nb.cameras.pair import SCORES, capture_pair, compare_pairs, restore_pair, score, skew
from debir_nb.cameras.protocol import (
    CameraBusy,
    CameraError,
    CameraLost,
    CameraStorageFull,
    CaptureTimeout,
    ExposureRefused,
    NoRaw,
    Shot,
    Steps,
)
from debir_nb.cameras.simulated import FREE, SimulatedCamera, third_stops
from debir_nb.core import FRAME_GAP, PREVIEW_GAP, PREVIEW_TIME, T_MIN, generator
from debir_nb.light.dng import normalise, read_raw
from debir_nb.light.raw import random_colour
from debir_nb.light.simulator import collect
from debir_nb.light.tags import Tag
from debir_nb.policies.baenet import BAENet, recalibrate_batchnorm
from debir_nb.policies.rules import bracket
from debir_nb.restorers.burstormer import Burstormer
from debir_nb.scoring.metrics import PairedDifference

VALUE = 600 * PREVIEW_TIME


def smooth(side=32, ticks=228, speed=0.0):
    "A wavy scene that drifts by `speed` packed px a tick."
    y, x = np.mgrid[:side, :side].astype(np.float32)
    frames = [
        np.stack([0.12 + 0.05 * np.sin((x - speed * k) / c + y / 5) for c in (2.5, 3, 3.5, 4)])
        for k in range(ticks)
    ]
    return collect(torch.from_numpy(np.stack(frames)).float()[None])


LIGHT, COLOUR = smooth(), random_colour(1, generator(1))


def camera(kind=SimulatedCamera, **settings):
    return kind(LIGHT, COLOUR, VALUE, **settings)


def network():
    "A BAENet that is not trained, but answers differently for each frame and each preview."
    torch.manual_seed(0)
    net = BAENet()
    torch.nn.init.normal_(net.mobilenet.classifier[1].weight, std=0.05)
    recalibrate_batchnorm(
        net,
        lambda: net(
            torch.rand(8, 4, 64, 64, generator=generator(2)),
            torch.linspace(512, 1024, 8),
            torch.linspace(0, 10, 8),
        ),
    )
    return net


def written(folder):
    return json.loads((folder / "manifest.json").read_text())


# What a policy sees


def test_the_middle_is_cut_out_and_keeps_its_pattern():
    with camera() as c:
        photo = c.preview(Shot(PREVIEW_TIME, 600)).photo
    for h, w, side in ((64, 64, 32), (62, 64, 20), (10, 64, 32), (64, 64, 62)):
        cut = centre(replace(photo, mosaic=photo.mosaic[:h, :w]), side).mosaic
        y, x = (max(0, have - side) // 4 * 2 for have in (h, w))
        assert (
            cut.shape == (min(h, side), min(w, side))
            and (cut == photo.mosaic[y : y + min(h, side), x : x + min(w, side)]).all()
            and y % 2 == x % 2 == 0
        )


@pytest.mark.parametrize("interval", [1, 2])
def test_motion_is_counted_per_55_ticks_however_far_apart_previews_are(interval):
    "0.02 packed px a tick are 1.1 px in 55 ticks."
    c = SimulatedCamera(
        smooth(64, 240, 0.02),
        COLOUR,
        VALUE,
        noise=lambda g: (0 * g, 0 * g),
        preview_gap=interval * (PREVIEW_TIME + PREVIEW_GAP) - PREVIEW_TIME,
    )
    with c:
        seen = seen_by_policy(*[c.preview(Shot(PREVIEW_TIME, 600)) for _ in range(2)])
    assert seen[2].item() == pytest.approx(1.1, rel=0.35) and seen[0].shape == (1, 4, 64, 64)


def brighter(frame, factor, **said):
    "The same picture with other light, and what its file says of it."
    black, white = frame.photo.black[0, 0], frame.photo.white
    mosaic = np.clip(black + (frame.photo.mosaic - black) * factor, 0, white).astype(np.uint16)
    return replace(frame, photo=replace(frame.photo, mosaic=mosaic, **said))


@pytest.mark.parametrize("what", ["exposure", "iso", "aperture", "aperture of one"])
def test_a_change_of_exposure_between_previews_is_no_motion(what):
    "A scene at rest; automatic exposure takes half the light by one of its three means."
    still = SimulatedCamera(smooth(64, 240, 0.0), COLOUR, VALUE, noise=lambda g: (0 * g, 0 * g))
    with still as c:
        a, b = (c.preview(Shot(PREVIEW_TIME, 600)) for _ in range(2))
    n = {Tag.F_NUMBER: (4,)}
    said = {
        "exposure": dict(exposure=b.photo.exposure / 2),
        "iso": dict(iso=b.photo.iso / 2),
        "aperture": dict(about={Tag.F_NUMBER: (4 * 2**0.5,)}),
        "aperture of one": dict(about={}),
    }[what]
    a = replace(a, photo=replace(a.photo, about=n if "aperture" in what else {}))
    assert seen_by_policy(a, brighter(b, 0.5, **{"about": {}} | said))[2].item() < 0.3
    assert seen_by_policy(a, brighter(b, 0.5, about=a.photo.about))[2].item() > 0.3  # nobody told


def test_the_gain_is_that_of_a_preview_of_the_paper():
    with camera() as c:
        a, b = (c.preview(Shot(2 * PREVIEW_TIME, 300)) for _ in range(2))
    assert seen_by_policy(a, b)[1].item() == pytest.approx(600)


def test_previews_in_the_wrong_order_or_of_two_cameras_are_refused():
    with camera() as c:
        a, b = (c.preview(Shot(PREVIEW_TIME, 600)) for _ in range(2))
    with pytest.raises(ValueError, match="earlier one as previous"):
        seen_by_policy(b, a)
    with pytest.raises(ValueError, match="Bayer pattern"):
        seen_by_policy(a, replace(b, photo=replace(b.photo, pattern="BGGR")))


def test_a_large_preview_is_cut_before_it_is_converted():
    "The policy sees SIDE px, so that its answer does not take longer on a large sensor."
    with camera() as c:
        a, b = (c.preview(Shot(PREVIEW_TIME, 600)) for _ in range(2))
    a, b = (replace(f, photo=replace(f.photo, mosaic=np.tile(f.photo.mosaic, (10, 12)))) for f in (a, b))
    assert seen_by_policy(a, b)[0].shape == (1, 4, SIDE // 2, SIDE // 2)


# A capture and its folder


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG"])
def test_the_manifest_equals_the_frames_and_the_frames_equal_the_files(tmp_path, pattern):
    dial = replace(FREE, exposures=third_stops(T_MIN, 0.1), gains=third_stops(1.05, 4096), pattern=pattern)
    taken = capture(camera(capabilities=dial, black=200), network(), tmp_path / "burst")
    said = written(tmp_path / "burst")
    assert (
        said["complete"]
        and said["error"] is None
        and said["camera"] == FREE.name
        and len(said["frames"]) == len(taken.frames) == 4
    )
    assert (
        said["wanted_exposures"] == taken.wanted
        and said["motion"] == taken.motion
        and 0 < said["seconds_to_exposure_times"] == taken.seconds
    )
    assert said["exposure_value"] == taken.previews[-1].achieved.value
    for row, shot, frame, photo in zip(
        said["frames"], taken.shots, taken.frames, read_burst(raw_files(tmp_path / "burst"))
    ):
        assert (row["exposure"], row["gain"]) == (frame.achieved.exposure, frame.achieved.gain)
        assert (row["asked_exposure"], row["asked_gain"]) == (shot.exposure, shot.gain) and row[
            "departure_ev"
        ] < 1e-6
        assert row["digital_gain"] == pytest.approx(taken.value / frame.achieved.value) and row[
            "residual_ev"
        ] == pytest.approx(-math.log2(row["digital_gain"]))
        assert (
            (photo.mosaic == frame.photo.mosaic).all()
            and photo.pattern == pattern
            and photo.white == frame.photo.white
            and (photo.black == 200).all()
        )
        assert float(photo.exposure) == pytest.approx(row["exposure"], rel=1e-6) and photo.iso == round(
            100 * row["gain"]
        )
        assert photo.noise == pytest.approx(frame.photo.noise)
    assert said["gaps"] == pytest.approx([FRAME_GAP] * 3)
    for row, frame in zip(said["previews"], taken.previews):
        assert (read_raw(tmp_path / "burst" / row["file"]).mosaic == frame.photo.mosaic).all()


def test_wanted_exposures_come_from_these_previews(tmp_path):
    policy = network()
    taken = capture(camera(), policy, tmp_path / "burst")
    again = Capture("again", taken.previews)
    choose_exposures(again, policy)
    assert again.wanted == taken.wanted and again.gain == taken.gain and len(set(taken.wanted)) == 4
    choose_exposures(
        again := Capture(
            "dark",
            [replace(f, photo=replace(f.photo, mosaic=f.photo.mosaic // 3 + 180)) for f in taken.previews],
        ),
        policy,
    )
    assert again.wanted != taken.wanted


def test_a_burst_restores_to_more_than_its_best_frame(tmp_path):
    torch.manual_seed(0)
    opened = camera()
    taken = capture(opened, bracket(4), tmp_path / "burst")
    truth = opened.truth(taken.frames[0], taken.value)
    restored, _ = restore_folder(tmp_path / "burst", Burstormer(4, features=8).eval())
    errors = [(normalise(f.photo)[None] - truth).square().mean().item() for f in taken.frames]
    assert (restored - truth).square().mean().item() < 0.7 * min(errors)


def test_the_cameras_own_files_are_kept_as_they_are(tmp_path):
    class WithFiles(SimulatedCamera):
        def burst(self, shots, timeout=10.0):
            for i, frame in enumerate(super().burst(shots, timeout)):
                yield replace(frame, file=bytes([i]) * 9, suffix=".NEF")

    capture(camera(WithFiles), bracket(4), tmp_path / "burst")
    assert [(tmp_path / "burst" / "originals" / f"frame_{i + 1}.NEF").read_bytes() for i in range(4)] == [
        bytes([i]) * 9 for i in range(4)
    ]
    assert len(raw_files(tmp_path / "burst")) == 4


def test_the_camera_is_asked_for_its_own_steps(tmp_path):
    asked = []

    class Notes(SimulatedCamera):
        def burst(self, shots, timeout=10.0):
            asked.extend(shots)
            yield from super().burst(shots, timeout)

    dial = replace(FREE, exposures=third_stops(T_MIN, 0.1), gains=third_stops(1, 4096))
    capture(camera(Notes, capabilities=dial), bracket(4), tmp_path / "burst")
    assert (
        all(s.exposure in dial.exposures.values and s.gain in dial.gains.values for s in asked)
        and len(asked) == 4
    )


# Faults


def failing(error, after, where="burst"):
    "A camera that raises after some frames of a burst, at its previews, or when it is opened."

    class Failing(SimulatedCamera):
        def __enter__(self):
            if where == "enter":
                raise error
            return super().__enter__()

        def preview(self, shot, timeout=10.0):
            if where == "preview":
                raise error
            return super().preview(shot, timeout)

        def burst(self, shots, timeout=10.0):
            yield from super().burst(shots[:after])
            raise error

    return camera(Failing)


FAULTS = {
    "unplugged": CameraLost("the camera is gone"),
    "lost event": CaptureTimeout("no frame came in 10 s"),
    "card full": CameraStorageFull("the card is full"),
    "refused": CameraError("capture refused"),
    "unexpected": ZeroDivisionError("a bug"),
    "interrupted": KeyboardInterrupt(),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_fault_in_the_middle_keeps_what_was_taken(tmp_path, fault, after):
    broken = failing(FAULTS[fault], after)
    with pytest.raises(type(FAULTS[fault])) as caught:
        capture(broken, bracket(4), tmp_path / "burst")
    assert f"{after} frames are kept" in caught.value.__notes__[-1]
    said = written(tmp_path / "burst")
    assert not said["complete"] and said["error"].startswith(type(FAULTS[fault]).__name__)
    assert len(said["frames"]) == after and len(said["wanted_exposures"]) == 4
    assert sorted(p.name for p in (tmp_path / "burst").iterdir()) == [
        *(f"frame_{i + 1}.dng" for i in range(after)),
        "manifest.json",
        "previews",
    ]
    if after:
        assert len(read_burst(raw_files(tmp_path / "burst"))) == after
    with broken:
        pass  # released


@pytest.mark.parametrize(
    "error",
    [
        CameraLost("gone"),
        ExposureRefused("automatic exposure cannot be switched off"),
        NoRaw("no Bayer format"),
    ],
)
@pytest.mark.parametrize("where", ["enter", "preview"])
def test_a_fault_before_the_burst_leaves_a_manifest_without_frames(tmp_path, error, where):
    broken = failing(error, 0, where)
    with pytest.raises(type(error)):
        capture(broken, bracket(4), tmp_path / "burst")
    said = written(tmp_path / "burst")
    assert said["frames"] == [] and str(error) in said["error"] and said["motion"] is None
    capture(camera(), bracket(4), tmp_path / "burst")  # nothing was taken, so that it may be tried again
    assert written(tmp_path / "burst")["complete"] and (tmp_path / "burst" / "frame_4.dng").exists()
    if where == "preview":
        with broken:
            pass


def test_a_busy_camera_says_so_and_stays_with_its_owner(tmp_path):
    held = camera()
    with held:
        with pytest.raises(CameraBusy):
            capture(held, bracket(4), tmp_path / "burst")
        assert held.preview(Shot(PREVIEW_TIME, 600))
    assert "CameraBusy" in written(tmp_path / "burst")["error"]


class Disobedient(SimulatedCamera):
    "A driver that halves the exposure of the third frame and says so only when it is read back."

    def burst(self, shots, timeout=10.0):
        yield from super().burst(
            [replace(s, exposure=s.exposure / 2) if i == 2 else s for i, s in enumerate(shots)], timeout
        )


def test_an_exposure_that_the_driver_changed_is_refused_with_the_frames_kept(tmp_path):
    with pytest.raises(
        ExposureRefused,
        match=r"frame 3 was asked for 20.83 ms .* taken with 10.42 ms .* \(by simulated\): 1.00 EV off",
    ):
        capture(camera(Disobedient), bracket(4), tmp_path / "burst")
    assert [row["departure_ev"] for row in written(tmp_path / "burst")["frames"]] == pytest.approx(
        [0, 0, 1], abs=1e-6
    ) and len(raw_files(tmp_path / "burst")) == 3


def test_or_noted_by_choice(tmp_path):
    taken = capture(camera(Disobedient), bracket(4), tmp_path / "burst", tolerance=None)
    said = written(tmp_path / "burst")
    changed = said["frames"][2]
    assert said["complete"] and len(taken.frames) == 4
    assert changed["departure_ev"] == pytest.approx(1, abs=1e-6) and changed["digital_gain"] == pytest.approx(
        2, rel=1e-6
    )


def test_a_camera_without_iso_control_is_refused_or_noted(tmp_path):
    fixed = replace(FREE, gains=Steps((600.0,)))
    with pytest.raises(ExposureRefused, match="frame 1"):
        capture(camera(capabilities=fixed), bracket(4), tmp_path / "one")
    assert (
        "ExposureRefused" in written(tmp_path / "one")["error"]
        and len(written(tmp_path / "one")["wanted_exposures"]) == 4
    )
    taken = capture(camera(capabilities=fixed), bracket(4), tmp_path / "two", tolerance=None)
    rows = written(tmp_path / "two")["frames"]
    assert all(row["gain"] == 600 for row in rows)
    assert [row["digital_gain"] for row in rows] == pytest.approx(
        [taken.value / 600 / t for t in bracket(4).exposures.tolist()], rel=1e-4
    )


def test_frames_of_another_size_are_refused_with_those_before_kept(tmp_path):
    class Shrinking(SimulatedCamera):
        def burst(self, shots, timeout=10.0):
            for i, frame in enumerate(super().burst(shots, timeout)):
                yield replace(
                    frame,
                    photo=replace(frame.photo, mosaic=frame.photo.mosaic[: len(frame.photo.mosaic) - 2 * i]),
                )

    with pytest.raises(ValueError, match=r"frame 2 has the size \(62, 64\), frame 1 has \(64, 64\)"):
        capture(camera(Shrinking), bracket(4), tmp_path / "burst")
    assert len(written(tmp_path / "burst")["frames"]) == 2 and (tmp_path / "burst" / "frame_2.dng").exists()


def test_a_folder_that_cannot_be_written_is_found_before_the_camera_is_touched(tmp_path):
    (tmp_path / "file").write_text("")
    untouched = failing(AssertionError("the camera was used"), 0, "preview")
    for folder in (tmp_path / "file" / "burst", Path("/proc/burst")):
        with pytest.raises(ValueError, match="cannot be written"):
            capture(untouched, bracket(4), folder)
    if os.geteuid():  # root may write everywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(ValueError, match="cannot be written"):
            capture(untouched, bracket(4), tmp_path / "locked" / "burst")


def test_a_capture_is_never_overwritten(tmp_path):
    capture(camera(), bracket(4), tmp_path / "burst")
    before = (tmp_path / "burst" / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="holds a capture already"):
        capture(camera(), bracket(4), tmp_path / "burst")
    assert (tmp_path / "burst" / "manifest.json").read_bytes() == before
    with pytest.raises(CameraLost):
        capture(failing(CameraLost("gone"), 1), bracket(4), tmp_path / "broken")
    with pytest.raises(ValueError, match="holds a capture already"):
        capture(camera(), bracket(4), tmp_path / "broken")


# Two cameras


def pair():
    return {"one": camera(seed=1), "two": camera(seed=2)}


POLICIES = {"one": bracket(4), "two": bracket(4)}


def test_two_cameras_begin_together(tmp_path):
    cameras, order = pair(), []

    def together():
        order.append("together")
        for c in cameras.values():
            c.clock = 1.0

    taken = capture_pair(cameras, POLICIES, tmp_path, together)
    assert (
        order == ["together"]
        and {each.frames[0].start for each in taken.values()} == {1.0 + FRAME_GAP}
        and 0 <= skew(taken) < 5
    )
    assert all(written(tmp_path / name)["complete"] for name in cameras)
    restored = restore_pair(tmp_path, dict.fromkeys(cameras, Burstormer(4, features=8).eval()))
    assert {name: picture.shape for name, picture in restored.items()} == dict.fromkeys(
        cameras, (1, 3, 64, 64)
    )


@pytest.mark.parametrize("where", ["preview", "burst"])
def test_when_one_fails_both_are_released_and_its_own_error_is_told(tmp_path, where):
    cameras = pair() | {"two": failing(CameraLost("two is gone"), 1, where)}
    with pytest.raises(CameraLost, match="two is gone"):
        capture_pair(cameras, POLICIES, tmp_path)
    assert not written(tmp_path / "two")["complete"]
    for c in cameras.values():
        with c:
            pass
    assert threading.active_count() == 1 or all("ThreadPool" not in t.name for t in threading.enumerate())


def test_scores_that_are_not_there_say_why(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyiqa", None)
    for name in SCORES:
        assert score(torch.rand(1, 3, 32, 32), name).startswith(
            "not available: pyiqa is not installed: pip install 'debir_nb[iqa]'"
        )


def test_scores_without_their_weights_say_why(monkeypatch):
    "pyiqa is there, its download fails."

    class Offline:
        @staticmethod
        def create_metric(name, device):
            raise OSError(f"cannot download the parameters of {name}")

    monkeypatch.setitem(__import__("sys").modules, "pyiqa", Offline)
    assert (
        score(torch.rand(1, 3, 32, 32), "TOPIQ")
        == "not available: cannot download the parameters of topiq_nr"
    )


def test_pairs_are_compared_within_scenes():
    draws = generator(0)
    bright = [torch.rand(1, 3, 8, 8, generator=draws) * 0.1 + k for k in range(6)]
    dark = [b - 0.25 for b in bright]
    scores = {"mean": lambda p: p.mean((1, 2, 3)).tolist(), "none": lambda p: "not available: no reason"}
    found = compare_pairs({"a": bright, "b": dark}, ["x", "x", "y", "y", "z", "z"], scores)
    assert isinstance(found["mean"], PairedDifference) and found["none"] == "not available: no reason"
    assert found["mean"].mean == pytest.approx(0.25, abs=1e-5) and found["mean"].n_sources == 3
    with pytest.raises(ValueError, match="one picture of each for every scene"):
        compare_pairs({"a": bright, "b": dark[:5]}, ["x"] * 6)
    with pytest.raises(ValueError, match="name each camera's policy"):
        capture_pair(pair(), {"one": bracket(4)}, ".")
