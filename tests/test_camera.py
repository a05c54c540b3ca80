"The protocol of cameras: steps, mapping with t g held, errors, and the preview's gain."

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from debir_nb.cameras.protocol import (
    TARGET,
    TOLERANCE,
    Capabilities,
    ExposureRefused,
    NoCamera,
    Range,
    RawFrame,
    Shot,
    Steps,
    auto_exposure,
    choose,
    departure,
    preview_shot,
    residual,
    to_shots,
)
from debir_nb.core import PREVIEW_TIME, T_MIN, budget
from debir_nb.light.dng import RawPhoto, normalise

MARKED = Steps(
    (
        1 / 250,
        1 / 200,
        1 / 160,
        1 / 125,
        1 / 100,
        1 / 80,
        1 / 60,
        1 / 50,
        1 / 40,
        1 / 30,
        1 / 25,
        1 / 20,
        1 / 15,
        1 / 13,
        1 / 10,
    )
)  # as engraved on a dial
ISO = Steps(
    tuple(
        v / 100
        for v in (
            6400,
            8000,
            10000,
            12800,
            16000,
            20000,
            25600,
            32000,
            40000,
            51200,
            64000,
            80000,
            102400,
            128000,
            160000,
            204800,
            256000,
        )
    )
)
CAMERAS = {
    "marked": (MARKED, ISO),
    "thirds": (
        Steps(tuple(T_MIN * 2 ** (k / 3) for k in range(15))),
        Steps(tuple(32 * 2 ** (k / 3) for k in range(22))),
    ),
    "raster": (Range(1e-4, 0.5, 1e-4), Range(16, 3000, 1)),
    "continuous": (Range(T_MIN, 0.2), Range(1, 8192)),
}


def camera(exposures, gains):
    return Capabilities("test", exposures, gains, "RGGB", 12, "simulated", True)


@pytest.mark.parametrize("name", CAMERAS)
def test_exposure_times_move_to_steps_and_brightness_stays(name):
    rng, can = np.random.default_rng(0), camera(*CAMERAS[name])
    for value in PREVIEW_TIME * rng.uniform(512, 1024, 20):
        wanted = T_MIN + (budget(4) - 4 * T_MIN) * rng.dirichlet(np.ones(5))[:4]
        for t, shot in zip(wanted, to_shots(wanted.tolist(), value, can)):
            assert abs(residual(shot, value)) <= TOLERANCE + 1e-9
            assert abs(math.log2(shot.exposure / t)) < 0.4  # the nearest step, or the one on the other side
            assert shot.exposure in can.exposures.near(shot.exposure) and shot.gain in can.gains.near(
                shot.gain
            )


def test_a_continuous_camera_is_exact():
    for shot in to_shots([0.005, 0.01, 0.02], 5.0, camera(*CAMERAS["continuous"])):
        assert abs(shot.value - 5) < 1e-9


def test_the_other_side_is_tried_before_refusing():
    "Gain 10 alone fits 1/100 s; the nearest exposure time, 1/80 s, is 0.32 EV off."
    can = camera(Steps((1 / 100, 1 / 80)), Steps((10.0,)))
    assert to_shots([1 / 81], 0.1, can)[0].exposure == 1 / 100


def test_what_cannot_be_had_is_refused_or_taken_by_choice():
    can = camera(MARKED, Steps((512.0,)))
    with pytest.raises(
        ExposureRefused, match=r"frame 1 should be exposed 4.17 ms at gain 1400.*-1.19 EV off.*tolerance=None"
    ):
        to_shots([T_MIN], 1400 * T_MIN, can)
    (shot,) = to_shots([T_MIN], 1400 * T_MIN, can, tolerance=None)
    assert shot.gain == 512 and residual(shot, 1400 * T_MIN) < -1


def test_the_nearest_exposure_is_kept_when_everything_is_accepted():
    can = camera(Steps((1 / 100, 1 / 80)), Steps((8.1, 10.0)))
    assert to_shots([1 / 81], 0.1, can, tolerance=None)[0].exposure == 1 / 80


@pytest.mark.parametrize(
    "control, wanted, near",
    [
        (Steps((1.0, 2.0, 4.0)), 1.4, (1.0, 2.0)),
        (Steps((1.0, 2.0, 4.0)), 1.5, (2.0, 1.0)),
        (Steps((3.0,)), 99.0, (3.0,)),
        (Range(1, 10), 3.3, (3.3,)),
        (Range(1, 10), 30.0, (10.0,)),
        (Range(1, 10), 0.3, (1.0,)),
        (Range(1, 10, 2), 4.1, (5.0, 3.0)),
        (Range(1, 10, 2), 30.0, (9.0,)),
        (Range(1, 10, 2), 0.1, (1.0,)),
        (Range(5, 5), 1.0, (5.0,)),
    ],
)
def test_what_lies_next_to_a_wanted_value(control, wanted, near):
    assert control.near(wanted) == pytest.approx(near)


@pytest.mark.parametrize(
    "value, t, g", [(PREVIEW_TIME * 700, 1 / 125, 800.0), (1e-3, 1 / 250, 64.0), (1e3, 1 / 125, 2560.0)]
)
def test_the_preview_keeps_its_exposure_and_moves_its_gain(value, t, g):
    assert preview_shot(value, camera(MARKED, ISO)) == Shot(t, g)


class Card:
    "A grey card; it counts how often it was looked at."

    def __init__(self, luminance, can):
        self.luminance, self.capabilities, self.looks = luminance, can, 0

    def preview(self, shot, timeout=10.0):
        self.looks += 1
        mosaic = np.full((32, 32), min(round(4095 * self.luminance * shot.value), 4095), np.uint16)
        return RawFrame(
            RawPhoto(
                mosaic,
                "RGGB",
                np.zeros((2, 2)),
                4095,
                Fraction(shot.exposure),
                100 * shot.gain,
                None,
                np.ones(3),
                np.eye(3),
            ),
            "simulated",
            0.0,
        )


@pytest.mark.parametrize("luminance", [3e-3, 0.02, 0.1, 0.5, 10.0, 20.0])
def test_auto_exposure_finds_the_target_from_any_light(luminance):
    card = Card(luminance, camera(*CAMERAS["continuous"]))
    frame = card.preview(auto_exposure(card))
    assert abs(math.log2(normalise(frame.photo).mean().item() / TARGET)) <= 0.25 and card.looks <= 9


@pytest.mark.parametrize("luminance", [0.0, 1e9])
def test_auto_exposure_ends_where_the_camera_can_do_no_more(luminance):
    card = Card(luminance, camera(MARKED, ISO))
    shot = auto_exposure(card)
    assert card.looks <= 8 and shot == (Shot(1 / 125, 2560.0) if luminance == 0 else Shot(1 / 250, 64.0))


def test_departure_is_the_worse_of_time_and_brightness():
    assert departure(Shot(0.01, 8), Shot(0.01, 8)) == 0
    assert departure(Shot(0.01, 8), Shot(0.02, 4)) == pytest.approx(1)
    assert departure(Shot(0.01, 8), Shot(0.01, 32)) == pytest.approx(2)
    assert departure(Shot(0.01, 8), Shot(0.02, 8)) == pytest.approx(1)


def test_nobody_guesses_which_camera():
    found = {"gphoto2:usb:001,004": "a", "gphoto2:usb:001,005": "b", "v4l2:/dev/video0": "c"}
    assert (
        choose(found, "v4l2") == "v4l2:/dev/video0"
        and choose(found, "gphoto2:usb:001,005") == "gphoto2:usb:001,005"
        and choose({"x": "y"}) == "x"
    )
    for wanted, words in (
        (None, "there are 3 cameras"),
        ("gphoto2", "there are 2 cameras"),
        ("nikon", "no camera nikon"),
    ):
        with pytest.raises(NoCamera, match=words):
            choose(found, wanted)
    with pytest.raises(NoCamera, match="Found: none"):
        choose({})


def test_a_frame_must_say_how_it_was_exposed():
    photo = Card(1.0, camera(MARKED, ISO)).preview(Shot(0.01)).photo
    unknown = (
        ("asked", {}, "known_by"),
        ("EXIF", {"exposure": None}, "exposure is not known"),
        ("EXIF", {"iso": None}, "iso is not known"),
    )
    for known_by, other, words in unknown:
        with pytest.raises(ValueError, match=words):
            RawFrame(replace(photo, **other), known_by, 0.0)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Shot(-1.0), "exposure of a shot is -1"),
        (lambda: Shot(1.0, float("nan")), "gain"),
        (lambda: Steps((1.0, 0.0)), "values are"),
        (lambda: Range(2, 1), "need 0 < low"),
        (lambda: Range(1, 2, -1), "step"),
    ],
)
def test_impossible_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
