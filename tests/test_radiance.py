"Known motion is rendered, filmed and interpolated: what comes back is compared with what is known."
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from debir_nb.core import FRAME_TIME, generator
from debir_nb.footage import open_clip
from debir_nb.radiance import (
    FootageRadiance, Interpolator, MovingObject, MovingPhotograph, Radiance, cut_out, film, footage_radiance, hand_shake, to_display, to_linear, upsample,
)

SHARED = Path(__file__).resolve().parents[2] / "shared"
CAR = SHARED / "data" / "video" / "hfr240_car_loop"


def photograph(size=(160, 200)):
    "A smooth linear photograph given by a formula, so that it is known between pixels too."
    y, x = np.mgrid[:size[0], :size[1]].astype(np.float32)
    return np.stack([pattern(x, y, c) for c in range(3)], -1).astype(np.float32)


def pattern(x, y, c):
    return 0.4 + 0.15 * np.sin(0.21 * x + 0.13 * y + c) + 0.15 * np.sin(0.11 * x - 0.27 * y + 2 * c) + 0.08 * np.sin(0.45 * x + 0.4 * y)


def sliding(vx, vy, size=(64, 80)):
    return MovingPhotograph(photograph(), size, lambda t: np.array([vx * t, vy * t, 0.0]))


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b.astype(float))**2), 1e-9))


def test_a_pose_is_sampled_where_it_says():
    "Shift (x, y) and roll a: frame pixel u shows the photograph at centre + R(a) (u - centre) + (x, y)."
    x, y, roll = 3.3, -2.6, 0.1
    view = MovingPhotograph(photograph(), (64, 80), lambda t: np.array([x, y, roll]))(0.0)
    v, u = np.mgrid[:64, :80].astype(float)
    u, v = u - 39.5, v - 31.5
    px = 99.5 + math.cos(roll) * u - math.sin(roll) * v + x
    py = 79.5 + math.sin(roll) * u + math.cos(roll) * v + y
    for c in range(3):
        assert np.abs(view[..., c] - pattern(px, py, c)).max() < 0.01


def test_an_object_covers_what_is_behind_it_and_moves_with_the_scene():
    photo = np.full((100, 100, 3), 0.2, np.float32)
    white = cut_out(np.ones((100, 100, 3), np.float32), 10, 20, 21, 31)
    assert white[10, 15].tolist() == [1, 1, 1, 1] and white[0, 0].tolist() == [0, 0, 0, 0]
    item = MovingObject(white, position=(40.0, 50.0), velocity=(100.0, 0.0))
    scene = MovingPhotograph(photo, (80, 80), lambda t: np.array([0.0, 50 * t, 0.0]), (item,))
    for t in (0.0, 0.2):
        over = scene(t)[..., 0] - 0.2
        mass = over.sum()
        centre = (over.sum(0) @ np.arange(80) / mass + 10, over.sum(1) @ np.arange(80) / mass + 10)
        assert centre == pytest.approx((40 + 100 * t, 50 - 50 * t), abs=0.02)
        assert over.max() == pytest.approx(0.8, abs=1e-5)


def test_hand_shake_is_smooth_band_limited_and_its_own():
    shake, again, other = (hand_shake(generator(s), 0.3, 240.0) for s in (1, 1, 2))
    t = np.linspace(0, 0.3, 3001)
    path, same, different = (np.stack([p(s) for s in t]) for p in (shake, again, other))
    assert np.array_equal(path, same) and not np.allclose(path, different)
    velocity = np.gradient(path, t, axis=0)
    assert np.hypot(*velocity[:, :2].T).mean() == pytest.approx(240, rel=3e-3)
    limit = (2 * np.pi * shake.frequency.max())**2 * np.abs(shake.amplitude).sum(1)
    assert (np.abs(np.gradient(velocity, t, axis=0)) <= limit * 1.001).all()
    assert np.array_equal(np.stack([hand_shake(generator(3), 0.3, 0.0)(s) for s in t[::100]]), np.zeros((31, 3)))


def test_filming_averages_light_not_display_values():
    def blink(t): return np.full((2, 2, 3), float(t < 0.5 / 240), np.float32)
    frame = film(blink, 1)
    assert np.array_equal(frame, to_display(np.full((1, 2, 2, 3), 0.5, np.float32)))
    assert frame[0, 0, 0, 0] == 188  # half of the light of white


def test_filming_a_slide_is_a_box_blur():
    v = 960.0  # 4 px in 1/240 s
    frame = to_linear(film(sliding(v, 0), 1, substeps=32))[0]
    y, x = np.mgrid[:64, :80].astype(float)
    want = np.stack([np.mean([pattern(x + 60 + s, y + 48, c) for s in np.linspace(0, 4, 400)], 0) for c in range(3)], -1)
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
    scene = MovingPhotograph(photo, (96, 112), lambda t: np.zeros(3), (item,))
    footage, truth = film(scene, 5), film(scene, 33, fps=1920.0, exposure=1 / 240)
    ticks = upsample(footage, 240.0)
    between = np.arange(33) % 8 != 0
    fade = np.stack([(1 - k % 8 / 8) * footage[k // 8] + k % 8 / 8 * footage[min(k // 8 + 1, 4)] for k in range(33)])
    assert psnr(ticks[between], truth[between]) > psnr(fade[between], truth[between]) + 3
    assert np.abs(ticks[:, :12, :12].astype(int) - truth[:, :12, :12]).max() <= 1  # far from the object nothing moves


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
    assert torch.equal(light, torch.from_numpy(to_linear(upsample(footage, 300.0, 2, 7)[:, 4:36, 8:56])).permute(0, 3, 1, 2))
    assert (radiance.n_frames, radiance.frame_time, radiance.frame_exposure) == (26, FRAME_TIME, 1 / 300)


def test_a_moving_photograph_is_a_radiance_of_instants():
    scene = sliding(480.0, 0.0)
    light = scene.frames(8, 10)
    assert scene.n_frames == 384 and scene.frame_exposure == 0
    assert torch.equal(light[1], torch.from_numpy(scene(9 * FRAME_TIME)).permute(2, 0, 1).clamp(0, 1))


@pytest.mark.parametrize("call, message", [
    (lambda f: upsample(f, 0.0), "fps is 0.0"),
    (lambda f: upsample(f, math.inf), "fps is inf.*film"),
    (lambda f: upsample(f[:0], 240.0), "frames is empty"),
    (lambda f: upsample(f, 240.0, 10, 8), "ticks 10 to 18 do not exist: 3 frames at 240 frames/s make 17"),
    (lambda f: upsample(f, 240.0, -1, 8), "ticks -1 to 7 do not exist"),
    (lambda f: Interpolator(f, 240.0).ticks(0, 1, y=40, x=0, size=(32, 32)), "window of 32 x 32 px at row 40, column 0 is not inside frames of 64 x 80"),
    (lambda f: film(sliding(0, 0), 0), "n is 0"),
    (lambda f: hand_shake(generator(0), 0.0, 1.0), "duration is 0.0"),
    (lambda f: hand_shake(generator(0), 0.1, -1.0), "speed is -1.0"),
    (lambda f: cut_out(photograph(), 150, 0, 20, 20), "cut-out of 20 x 20 px at row 150"),
    (lambda f: sliding(0, 0).frames(380, 390), "ticks 380 to 390 do not exist: the sequence has 384"),
])
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(film(sliding(0, 0), 3))


@pytest.mark.skipif(not CAR.is_dir(), reason=f"real footage is missing: {CAR} does not exist")
def test_real_footage_left_out_frames_are_predicted_better_than_by_a_cross_fade():
    frames = open_clip(CAR).frames(0, 9)[:, :, 200:456, 300:684].permute(0, 2, 3, 1).contiguous().numpy()
    predicted = upsample(frames[::2], 120.0)[8::16]
    fade = np.mean([frames[:-2:2], frames[2::2]], 0)
    assert psnr(predicted, frames[1::2]) > psnr(fade, frames[1::2]) + 1
    assert footage_radiance(open_clip(CAR), 0, 2).n_frames == 9
