"Short and long exposures: the published parts, the order of things, and the sensor in the simulator."

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from debir_nb.core import BURST_START, FRAME_TIME, Limits, generator
from debir_nb.light.gyroscope import Gyroscope, GyroscopePath
from debir_nb.light.pairs import (
    PairDraws,
    PairRanges,
    ShortLongSensor,
    blur_by_hand,
    counted,
    draw_pairs,
    draw_starts,
    for_display,
    from_display,
    make_pairs,
    overexpose,
    underexpose,
)
from debir_nb.light.simulator import Simulator, collect
from debir_nb.light.straight_through import simulator_with

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "lsd2_pair.npz"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="the parity cases (shared/golden) are not here")
TINY = 1e-9  # variance per unit signal of a pair that is nearly free of noise


def picture(size=(40, 48), key=0):
    "Smooth display values, (1, 3, h, w)."
    coarse = torch.rand(1, 3, 6, 7, generator=generator(key))
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0.02, 0.98)


def drawn(s=1.0, a=(0.19, 0.13, 0.22), b=(0.0, 0.0, 0.0), shot=0.01, dtype=torch.float32):
    whole = lambda x: torch.tensor([x], dtype=dtype)
    return PairDraws(whole(s), whole(a), whole(b), whole((shot, shot / 4)))


def still(light):
    return light


@needs_golden
def test_brightness_colour_and_gamma_are_the_published_ones():
    case = {k: torch.from_numpy(v) if v.ndim else float(v) for k, v in np.load(GOLDEN).items()}
    sharp = case["image"].permute(2, 0, 1)[None]
    ours = drawn(case["scale"], case["a"].tolist(), case["b"].tolist(), dtype=torch.float64)
    light = overexpose(sharp, ours)
    for found, name in (
        (light, "long_unclipped"),
        (for_display(light.clamp(max=1)), "long_target"),
        (for_display(underexpose(light, ours)), "short_clean"),
    ):
        assert (found[0].permute(1, 2, 0) - case[name]).abs().max() < 1e-5, name
    sRGB = ((case["image"] + 0.055) / 1.055) ** 2.4
    assert (case["scale"] * sRGB - case["long_unclipped"]).abs().max() > 1e-3  # another curve is seen


def test_a_pair_without_noise_is_what_its_equations_say():
    sharp, ours = picture(), drawn(1.8, b=(0.004, 0.0, 0.002), shot=TINY)
    pair = make_pairs(sharp, lambda light: 0.5 * light, ours, generator(0))
    light = 1.8 * sharp**2.2
    short = ours.gain.view(1, 3, 1, 1) * light + ours.lift.view(1, 3, 1, 1)
    for found, expected in ((pair.target, light), (pair.long, 0.5 * light), (pair.short, short)):
        assert (found - expected.clamp(max=1) ** (1 / 2.2)).abs().max() < 0.6 / 255
        assert torch.equal((255 * found).round(), 255 * found)  # 8 bit


def test_noise_is_poisson_of_each_frames_own_light_and_four_times_in_the_short_one():
    grey = torch.full((1, 3, 128, 128), 0.6)
    ours = drawn(1.0, shot=0.02)
    pair = make_pairs(grey, still, ours, generator(3))
    for frame, light, worth in (
        (pair.short, ours.gain[0] * 0.6**2.2, 0.02),
        (pair.long, torch.full((3,), 0.6**2.2), 0.005),
    ):
        found = from_display(frame)[0].flatten(1)
        assert found.mean(1) == pytest.approx(light.numpy(), rel=0.03)
        assert found.var(1) == pytest.approx((worth * light).numpy(), rel=0.06)
    light = torch.full((1, 3, 128, 128), 0.05)
    few = counted(light, torch.tensor([0.025]), generator(4)) / 0.025  # two photons a pixel
    assert (few == 0).float().mean().item() == pytest.approx(
        np.exp(-2), abs=0.01
    )  # a normal has no such zeros


def test_light_is_blurred_before_it_is_cut_off_at_white():
    dark = torch.full((1, 3, 21, 61), 0.1)
    dark[..., 10, 20] = 1.0
    ours = drawn(3.0, shot=TINY)
    to_the_right = lambda t: np.eye(3) - np.multiply.outer(t, np.outer([20.0, 0, 0], [0, 0, 1]))
    bright = lambda light: 30 * blur_by_hand([to_the_right], 0.5)(light)
    pair = make_pairs(dark, bright, ours, generator(0))
    # 3 x 30 spread over 10 px is still white, at the start of the blur and after it
    assert (pair.long[0, :, 10, 21:29] == 1).all() and (pair.long[0, :, 10, [10, 40]] < 0.9).all()
    assert (pair.target[0, :, 10, 20] == 1).all()


def test_the_long_frame_goes_on_from_where_the_short_one_was():
    "The pair is registered with the short frame; the mean of the long one is where the hand went meanwhile."
    dot = torch.full((1, 3, 41, 61), 0.0)
    dot[..., 20, 20] = 0.9
    ours, middles = drawn(1.0, shot=TINY), {}
    steady = Gyroscope(np.linspace(0, 1, 501), np.tile([0.0, -0.1, 0.0], (501, 1)))
    path = GyroscopePath(steady, np.diag([400.0, 400.0, 1.0]), 0.3)  # 40 px/s to the right
    for gap in (0.0, 0.1, -0.1):
        blur = blur_by_hand([path], 0.2, gap=gap)
        pair = make_pairs(dot, blur, ours, generator(0))
        x = torch.arange(61.0)
        lit = from_display(pair.long)[0, 0].sum(0)
        middles[gap] = ((lit * x).sum() / lit.sum()).item() - 20
        assert from_display(pair.short)[0, 0].sum(0).argmax() == 20
    assert middles == pytest.approx({0.0: 4.0, 0.1: 8.0, -0.1: 0.0}, abs=0.15)


def test_ranges_switch_distortions_off():
    plain = PairRanges(overexposed=(1.0, 1.0), gain=((0.133, 0.133),) * 3, lift=((0.0, 0.0),) * 3)
    many = draw_pairs(50, generator(0), plain)
    assert (many.overexposed == 1).all() and (many.lift == 0).all() and many.gain.std() < 1e-7
    assert many.shot.std() > 1e-3  # noise is still drawn
    both = [draw_pairs(5, generator(1)) for _ in range(2)]
    assert torch.equal(both[0].gain, both[1].gain)


def scene(value=0.2, n=360):
    return collect(torch.full((1, n, 4, 64, 64), value, dtype=torch.float64))


def test_the_sensor_is_found_by_its_word_and_takes_the_published_exposures():
    simulator = simulator_with(sensor="short_long", jitter=True)
    assert isinstance(simulator.sensor, ShortLongSensor) and simulator.sensor.jitter
    ticks = torch.tensor([[8.0, 240.0]], dtype=torch.float64)
    gain = torch.tensor([100.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="over the budget"):
        simulator.burst(scene(), ticks * FRAME_TIME, gain, generator(0))
    wide = replace(simulator, limits=Limits(t_u=248 * FRAME_TIME))
    pair = wide.burst(scene(), ticks * FRAME_TIME, gain, generator(0))
    assert pair.frames.shape == (1, 2, 4, 64, 64) and pair.noise_std[0, 0] > 3 * pair.noise_std[0, 1]
    gains = wide.sensor.gains(ticks * FRAME_TIME, gain)[0]
    assert gains[0] == pytest.approx(4 * gains[1].item())


def at_ratio(ratio, sensor, light, key=0):
    "A pair of 8 and 8 times ratio ticks."
    ticks = torch.tensor([[8.0, 8.0 * ratio]], dtype=torch.float64)
    simulator = Simulator(sensor, limits=Limits(t_u=8.0 * (1 + ratio) * FRAME_TIME))
    return simulator.burst(light, ticks * FRAME_TIME, torch.tensor([100.0]).double(), generator(key))


def test_a_brighter_short_frame_is_cleaner():
    plain = PairRanges((1.0, 1.0), ((4 / 30, 4 / 30),) * 3, ((0.0, 0.0),) * 3, (0.01, 0.01))
    sensor = ShortLongSensor(ranges=plain)
    for ratio in (7, 15, 30):
        pair = at_ratio(ratio, sensor, scene())
        assert pair.frames[0, 0].mean().item() == pytest.approx(0.2, rel=0.03)
        # value 0.2 x 4/ratio with 0.01 per unit of it
        expected = (0.01 * 0.2 * 4 / ratio) ** 0.5 / (4 / ratio)
        assert pair.noise_std[0, 0].item() == pytest.approx(expected, rel=0.05)
        assert pair.frames[0, 0].std().item() == pytest.approx(expected, rel=0.1)


def test_an_overexposed_long_frame_does_not_count_and_the_short_one_knows():
    plain = PairRanges((3.0, 3.0), ((4 / 30, 4 / 30),) * 3, ((0.0, 0.0),) * 3, (0.001, 0.001))
    pair = at_ratio(30, ShortLongSensor(ranges=plain), scene(0.6))
    assert not pair.counts[0, 1].any() and pair.counts[0, 0].all()
    assert pair.frames[0, 0].mean().item() == pytest.approx(0.6, rel=0.02)
    assert pair.frames[0, 1].mean().item() == pytest.approx(1 / 3, rel=1e-3)


def test_which_frame_is_short_is_told_by_its_time_not_by_its_place():
    sensor = ShortLongSensor()
    start = torch.tensor([[BURST_START, BURST_START + 0.2]], dtype=torch.float64)
    stop = start + torch.tensor([[0.125, 0.125 / 30]], dtype=torch.float64)
    grey = torch.full((1, 2, 3, 64, 64), 0.2, dtype=torch.float64)
    pair = sensor(grey, start, stop, torch.ones(1, 2), generator(0))
    assert pair.noise_std[0, 1] > 3 * pair.noise_std[0, 0]
    assert (pair.frames[0, 1, [0, 2]].mean((1, 2)) > pair.frames[0, 1, 1].mean()).all()


@pytest.mark.parametrize("frames, planes", [(3, 4), (1, 4), (2, 5)])
def test_other_bursts_are_refused(frames, planes):
    times = torch.arange(frames)[None].double()
    with pytest.raises(ValueError, match=f"radiance has {frames} frames of {planes} planes"):
        ShortLongSensor()(torch.rand(1, frames, planes, 4, 4), times, times + 0.5, times, generator(0))


def test_two_exposures_of_one_time_are_no_pair():
    times = torch.tensor([[0.0, 1.0]])
    with pytest.raises(ValueError, match="1 of 1 bursts hold two exposures of one time"):
        ShortLongSensor()(torch.rand(1, 2, 4, 4, 4), times, times + 0.5, times, generator(0))


def test_starts_are_spread_over_the_speeds_of_a_hand():
    when = np.linspace(0, 20, 4001)
    fast = 0.02 + 0.4 * ((when > 8) & (when < 8.6))
    hand = Gyroscope(when, fast[:, None] * [0.8, 0.6, 0.0])
    starts = draw_starts(hand, 0.2, 60, generator(0))
    speeds = [np.interp(s + np.linspace(0, 0.2, 20), when, fast).mean() for s in starts]
    counts, _ = np.histogram(speeds, np.linspace(0.02, 0.42, 5))
    assert counts.min() >= 8 and starts.max() + 0.2 <= 20
    with pytest.raises(ValueError, match="the recording lasts 20"):
        draw_starts(hand, 25.0, 3, generator(0))
