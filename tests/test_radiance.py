"Known motion is rendered, filmed and interpolated: what comes back is compared with what is known."

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from debir_nb.core import FRAME_TIME, generator
from debir_nb.light import interpolation as module
from debir_nb.light.footage import open_clip
from debir_nb.light.interpolation import FootageRadiance, Interpolator, footage_radiance, upsample
from debir_nb.light.radiance import (
    HandShake,
    MovingObject,
    MovingPhotograph,
    Radiance,
    cut_out,
    film,
    hand_held,
    hand_shake,
    to_display,
    to_linear,
)

SHARED = Path(__file__).resolve().parents[2] / "shared"
CAR, WHEEL = (SHARED / "data" / "video" / name for name in ("hfr240_car_loop", "hfr300_bicycle_wheel.mp4"))


def photograph(size=(160, 200)):
    "A smooth linear photograph given by a formula, so that it is known between pixels too."
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    return np.stack([pattern(x, y, c) for c in range(3)], -1).astype(np.float32)


def pattern(x, y, c):
    return (
        0.4
        + 0.15 * np.sin(0.21 * x + 0.13 * y + c)
        + 0.15 * np.sin(0.11 * x - 0.27 * y + 2 * c)
        + 0.08 * np.sin(0.45 * x + 0.4 * y)
    )


def moved(x, y):
    "Homographies of a camera that looks x px to the right and y px down, at one or many times."
    return (
        np.eye(3)
        + np.multiply.outer(x, [[0, 0, 1], [0, 0, 0], [0, 0, 0]])
        + np.multiply.outer(y, [[0, 0, 0], [0, 0, 1], [0, 0, 0]])
    )


def sliding(vx, vy, size=(64, 80)):
    return MovingPhotograph(photograph(), size, lambda t: moved(vx * t, vy * t))


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-9))


@pytest.mark.parametrize("pitch, yaw, roll", [(0, 0.02, 0), (0.02, 0, 0), (0, 0, 0.1), (0.03, -0.05, 0.08)])
def test_a_turned_camera_sees_what_a_pinhole_would(pitch, yaw, roll):
    """The ray of each pixel is turned about the axes right, down and forward, and meets a plane at the focal
    length.
    """
    focal = 300.0
    shake = HandShake(np.array([1.0]), np.array([[pitch], [yaw], [roll]]), np.zeros((3, 1)), 0.0, focal)
    v, u = np.mgrid[:64, :80].astype(float)
    rays = np.stack([u - 39.5, v - 31.5, np.full_like(u, focal)], -1).reshape(-1, 3)
    turn = cv2.Rodrigues(np.array([pitch, yaw, roll]))[0]  # a quarter of a period after the middle
    hit = rays @ turn.T
    px, py = 99.5 + focal * hit[:, 0] / hit[:, 2], 79.5 + focal * hit[:, 1] / hit[:, 2]
    view = MovingPhotograph(photograph(), (64, 80), shake)(0.25)
    for c in range(3):
        assert np.abs(view[..., c].ravel() - pattern(px, py, c)).max() < 0.012


def test_yaw_looks_right_pitch_looks_up_and_roll_turns():
    def at(axis):
        return HandShake(np.array([1.0]), 0.01 * np.eye(3)[:, [axis]], np.zeros((3, 1)), 0.0, 500.0)(0.25)

    ahead = np.array([0.0, 0.0, 1.0])
    assert at(1) @ ahead / (at(1) @ ahead)[2] == pytest.approx([500 * math.tan(0.01), 0, 1])
    assert at(0) @ ahead / (at(0) @ ahead)[2] == pytest.approx([0, -500 * math.tan(0.01), 1])
    assert at(2) @ [1.0, 0, 1] == pytest.approx([math.cos(0.01), math.sin(0.01), 1])


def test_a_rolling_shutter_reads_each_row_at_its_own_time():
    item = MovingObject(cut_out(np.ones((60, 60, 3), np.float32), 0, 0, 40, 40), (90.0, 80.0), (500.0, 100.0))
    still = MovingPhotograph(
        photograph(), (64, 80), lambda t: moved(700 * np.asarray(t), -300 * np.asarray(t)), (item,)
    )
    late = replace(still, readout=0.02)
    for row in (0, 17, 63):
        assert np.allclose(late(0.01)[row], still(0.01 + 0.02 * row / 64)[row], atol=1e-6)
    assert not np.allclose(late(0.01)[40], still(0.01)[40], atol=0.02)


@pytest.mark.parametrize("speed", [0.0, 240.0, 960.0])
def test_a_hand_held_photograph_moves_at_the_speed_asked_for_around_the_place_asked_for(speed):
    scene = hand_held(photograph(), generator(4), (64, 80), (120.0, 70.0), speed, 0.15)
    times = np.linspace(0, 0.15, 4001)
    seen = scene.path(times) @ [0.0, 0.0, 1.0]
    seen = seen[:, :2] / seen[:, 2:] + [99.5, 79.5]
    assert np.hypot(*np.diff(seen, axis=0).T).sum() / 0.15 == pytest.approx(speed, rel=0.02)
    assert seen[2000] == pytest.approx([120.0, 70.0])
    for item in scene.objects:
        assert 0.2 * 64 - 1 <= min(item.patch.shape[:2]) <= max(item.patch.shape[:2]) <= 0.4 * 64 + 1
        assert np.hypot(*item.velocity) <= 2 * speed and len(scene.objects) == 2


def test_an_object_covers_what_is_behind_it_and_moves_with_the_scene():
    photo = np.full((100, 100, 3), 0.2, np.float32)
    white = cut_out(np.ones((100, 100, 3), np.float32), 10, 20, 21, 31)
    assert white[10, 15].tolist() == [1, 1, 1, 1] and white[0, 0].tolist() == [0, 0, 0, 0]
    item = MovingObject(white, position=(40.0, 50.0), velocity=(100.0, 0.0))
    scene = MovingPhotograph(photo, (80, 80), lambda t: moved(0.0, 50 * t), (item,))
    for t in (0.0, 0.2):
        over = scene(t)[..., 0] - 0.2
        mass = over.sum()
        centre = (over.sum(0) @ np.arange(80) / mass + 10, over.sum(1) @ np.arange(80) / mass + 10)
        assert centre == pytest.approx((40 + 100 * t, 50 - 50 * t), abs=0.02)
        assert over.max() == pytest.approx(0.8, abs=1e-5)


def test_hand_shake_is_smooth_band_limited_and_its_own():
    shake, again, other = (hand_shake(generator(s), 0.3, 240.0) for s in (1, 1, 2))
    t = np.linspace(0, 0.3, 3001)
    path, same, different = (600 * p.angles(t) for p in (shake, again, other))  # small angles: px of shift
    assert np.array_equal(path, same) and not np.allclose(path, different)
    velocity = np.gradient(path, t, axis=0)
    assert np.hypot(*velocity[:, :2].T).mean() == pytest.approx(240, rel=3e-3)
    limit = 600 * (2 * np.pi * shake.frequency.max()) ** 2 * np.abs(shake.amplitude).sum(1)
    assert (np.abs(np.gradient(velocity, t, axis=0)) <= limit * 1.001).all()
    assert np.array_equal(hand_shake(generator(3), 0.3, 0.0)(t[::100]), np.tile(np.eye(3), (31, 1, 1)))


def test_filming_averages_light_not_display_values():
    def blink(t):
        return np.full((2, 2, 3), float(t < 0.5 / 240), np.float32)

    frame = film(blink, 1)
    assert np.array_equal(frame, to_display(np.full((1, 2, 2, 3), 0.5, np.float32)))
    assert frame[0, 0, 0, 0] == 188  # half of the light of white


def test_filming_a_slide_is_a_box_blur():
    v = 960.0  # 4 px in 1/240 s
    frame = to_linear(film(sliding(v, 0), 1, substeps=32))[0]
    y, x = np.mgrid[:64, :80].astype(float)
    want = np.stack(
        [np.mean([pattern(x + 60 + s, y + 48, c) for s in np.linspace(0, 4, 400)], 0) for c in range(3)], -1
    )
    assert np.abs(frame - want).max() < 0.012  # 8-bit rounding is up to 0.006 of it


@pytest.mark.parametrize("fps", [120.0, 240.0, 300.0, 1000.0, 1920.0, 3840.0])
def test_interpolation_follows_a_known_slide_at_any_rate(fps):
    v = (480.0, -360.0)
    n = int(24 * fps / 1920) + 2
    footage = film(sliding(*v), n, fps=fps, exposure=1 / 1920)
    ticks = upsample(footage, fps)
    truth = film(sliding(*v), len(ticks), fps=1920.0, exposure=1 / 1920)
    assert len(ticks) == math.floor((n - 1) * 1920 / fps + 1e-9) + 1
    assert psnr(ticks[:, 8:-8, 8:-8], truth[:, 8:-8, 8:-8]) > 40
    for k in range(len(ticks)):
        source = k * fps / 1920
        if abs(source - round(source)) < 1e-9:
            assert np.array_equal(ticks[k], footage[round(source)])


def test_interpolation_of_an_object_before_a_still_scene():
    photo = photograph()
    item = MovingObject(cut_out(photo[::-1].copy() * 0.5, 20, 30, 40, 40), (80.0, 80.0), (720.0, 480.0))
    scene = MovingPhotograph(photo, (96, 112), lambda t: np.eye(3), (item,))
    footage, truth = film(scene, 5), film(scene, 33, fps=1920.0, exposure=1 / 240)
    ticks = upsample(footage, 240.0)
    between = np.arange(33) % 8 != 0
    fade = np.stack(
        [(1 - k % 8 / 8) * footage[k // 8] + k % 8 / 8 * footage[min(k // 8 + 1, 4)] for k in range(33)]
    )
    assert psnr(ticks[between], truth[between]) > psnr(fade[between], truth[between]) + 3
    # far from the object nothing moves
    assert np.abs(ticks[:, :12, :12].astype(int) - truth[:, :12, :12]).max() <= 1


def test_a_small_fast_thing_is_moved_not_faded():
    """A disc of 14 px that moves 40 px a frame in front of a scene at rest: flow from coarse to fine cannot
    see it.
    """
    item = MovingObject(
        cut_out(np.full((14, 14, 3), 0.95, np.float32), 0, 0, 14, 14), (90.0, 110.0), (9600.0, 2400.0)
    )
    scene = MovingPhotograph(photograph((160, 240)), (112, 208), lambda t: np.eye(3), (item,))
    footage, truth = film(scene, 4, exposure=1 / 1920), film(scene, 1, exposure=1 / 1920, start=1.5 / 240)[0]
    fade = cv2.addWeighted(footage[1], 0.5, footage[2], 0.5, 0)
    between = upsample(footage, 240.0, 12, 1)[0]
    assert psnr(between, truth) > psnr(fade, truth) + 2


def test_footage_at_1920_frames_a_second_is_taken_as_it_is(monkeypatch):
    footage = film(sliding(900.0, 100.0), 5, fps=1920.0)
    monkeypatch.setattr(module, "_flow", None)  # calling it would fail
    assert np.array_equal(upsample(footage, 1920.0), footage)


def test_odd_sizes_and_frames_smaller_than_a_block():
    footage = film(sliding(480.0, 240.0, (21, 33)), 5)
    whole = upsample(footage, 240.0)
    assert whole.shape == (33, 21, 33, 3) and np.array_equal(whole[::8], footage)
    assert np.array_equal(Interpolator(footage, 240.0).ticks(3, 20, 5, 3, (11, 17)), whole[3:23, 5:16, 3:20])


def test_a_single_frame_is_one_tick():
    frame = film(sliding(0, 0), 1)
    assert np.array_equal(upsample(frame, 240.0), frame)


def test_windows_and_spans_are_pieces_of_the_whole():
    footage = film(sliding(700.0, 300.0), 6)
    whole = upsample(footage, 240.0)
    part = Interpolator(footage, 240.0).ticks(5, 17, y=7, x=11, size=(32, 40))
    assert np.array_equal(part, whole[5:22, 7:39, 11:51])


def test_radiance_is_linear_light_with_the_exposure_of_the_footage():
    footage = film(sliding(300.0, 0.0), 5, fps=300.0)
    radiance = FootageRadiance(Interpolator(footage, 300.0), 4, 8, (32, 48))
    light = radiance.frames(2, 9)
    assert isinstance(radiance, Radiance) and light.dtype == torch.float32 and light.shape == (7, 3, 32, 48)
    assert torch.equal(
        light, torch.from_numpy(to_linear(upsample(footage, 300.0, 2, 7)[:, 4:36, 8:56])).permute(0, 3, 1, 2)
    )
    assert (radiance.n_frames, radiance.frame_time, radiance.frame_exposure) == (26, FRAME_TIME, 1 / 300)


def test_a_moving_photograph_is_a_radiance_of_instants():
    scene = sliding(480.0, 0.0)
    light = scene.frames(8, 10)
    assert scene.n_frames == 384 and scene.frame_exposure == 0
    assert torch.equal(light[1], torch.from_numpy(scene(9 * FRAME_TIME)).permute(2, 0, 1).clamp(0, 1))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f: upsample(f, 0.0), "fps is 0.0"),
        (lambda f: upsample(f, math.inf), "fps is inf.*film"),
        (lambda f: upsample(f[:0], 240.0), "frames is empty"),
        (
            lambda f: upsample(f, 240.0, 10, 8),
            "ticks 10 to 18 do not exist: 3 frames at 240 frames/s make 17",
        ),
        (lambda f: upsample(f, 240.0, -1, 8), "ticks -1 to 7 do not exist"),
        (
            lambda f: Interpolator(f, 240.0).ticks(0, 1, y=40, x=0, size=(32, 32)),
            "window of 32 x 32 px at row 40, column 0 is not inside frames of 64 x 80",
        ),
        (lambda f: film(sliding(0, 0), 0), "n is 0"),
        (lambda f: hand_shake(generator(0), 0.0, 1.0), "duration is 0.0"),
        (lambda f: hand_shake(generator(0), 0.1, -1.0), "speed is -1.0"),
        (lambda f: cut_out(photograph(), 150, 0, 20, 20), "cut-out of 20 x 20 px at row 150"),
        (lambda f: sliding(0, 0).frames(380, 390), "ticks 380 to 390 do not exist: the sequence has 384"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(film(sliding(0, 0), 3))


@pytest.mark.skipif(not CAR.is_dir(), reason=f"real footage is missing: {CAR} does not exist")
def test_real_footage_becomes_a_radiance_sequence():
    assert footage_radiance(open_clip(CAR), 0, 2).n_frames == 9


def left_out(frames, factor, spots):
    """PSNR (dB) in linear light of frames left out, interpolated and as the average, the cross-fade and the
    nearest of the frames kept.

    Counted on moving pixels: where the two frames kept differ by more than 2 % of white, as means of 5 x 5
    px, so that noise does not count.
    """
    kept, error, n = np.ascontiguousarray(frames[::factor]), np.zeros(4), 0
    interpolator = Interpolator(kept, 1920 / factor)  # slowed down, so that every frame left out is a tick
    for i in np.linspace(1, len(kept) - 3, spots).astype(int):
        first, second = to_linear(kept[i : i + 2])
        moving = np.abs(cv2.blur(first, (5, 5)) - cv2.blur(second, (5, 5))).max(2) > 0.02
        for k, guess in enumerate(interpolator.ticks(factor * i + 1, factor - 1), 1):
            t, truth = k / factor, to_linear(frames[factor * i + k])
            guesses = (
                to_linear(guess),
                (first + second) / 2,
                (1 - t) * first + t * second,
                first if t <= 0.5 else second,
            )
            error += [((g - truth)[moving] ** 2).sum(dtype=float) for g in guesses]
            n += 3 * moving.sum()
    return dict(zip(("interpolated", "average", "cross-fade", "nearest"), -10 * np.log10(error / n)))


@pytest.mark.parametrize("factor, gain", [(2, 3), (4, 2)])
@pytest.mark.parametrize(
    "clip, part, spots", [(WHEEL, np.s_[1:], 40), (CAR, np.s_[:, :540, 60:960], 12)], ids=["wheel", "car"]
)
def test_frames_left_out_of_real_footage_are_predicted(clip, part, spots, factor, gain):
    "The wheel's first frame is a picture of its own; outside the part of the car's frames nothing moves."
    if not clip.exists():
        pytest.skip(f"real footage is missing: {clip} does not exist")
    scores = left_out(open_clip(clip).frames().permute(0, 2, 3, 1).numpy()[part], factor, spots)
    print(
        f"{clip.name}, one of {factor} kept: "
        + ", ".join(f"{name} {value:.2f} dB" for name, value in scores.items())
    )
    assert scores["interpolated"] > scores["average"] + gain
    assert scores["interpolated"] > scores["cross-fade"] + 1
    assert scores["interpolated"] > scores["nearest"] + gain
