"""Closed forms of noise and exposure, gradients, and one test per bad input."""

import math

import pytest
import torch

from debir_nb.core import FRAME_TIME, generator
from debir_nb.light.degradation import (
    add_noise,
    bayer_mosaic,
    burst_gains,
    clip,
    degrade,
    exposure_value,
    integrate,
    iso_noise,
    jitter_noise,
    printed_noise,
    quantise,
    sensor_noise,
)

NAN = float("nan")
PATTERNS = ["RGGB", "BGGR", "GRBG", "GBRG"]


# Exposure


def test_a_burst_has_the_brightness_of_its_preview():
    times, preview_gain = (
        torch.rand(5, 4, generator=generator(0)) + 0.01,
        torch.rand(5, generator=generator(1)) + 1,
    )
    gains = burst_gains(times, preview_gain, 1 / 100)
    torch.testing.assert_close(exposure_value(times, gains), (preview_gain / 100)[:, None].expand(5, 4))


def test_gains_follow_exposures_differentiably():
    times = torch.tensor([[0.01, 0.02]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: burst_gains(t, torch.tensor([7.0], dtype=torch.float64)), times)


def test_integration_is_additive_in_time():
    radiance = torch.rand(2, 9, 3, 4, 4, generator=generator(2))
    torch.testing.assert_close(integrate(radiance[:, :4]) + integrate(radiance[:, 4:]), integrate(radiance))


# Noise


def test_published_numbers_at_two_isos():
    shot, read = iso_noise(torch.tensor([1.0, 1024.0], dtype=torch.float64))
    assert shot.tolist() == pytest.approx([9.2857e-5 + 8.1006e-5, 0.09516657], rel=1e-6)
    assert [math.log(r) for r in read] == pytest.approx(
        [2.2282 * math.log(s) + 0.45982 for s in shot.tolist()]
    )


@pytest.mark.parametrize("model, shot_power, read_power", [(sensor_noise, 1, 2), (printed_noise, 2, 2)])
def test_powers_of_gain(model, shot_power, read_power):
    (s1, s2), (r1, r2) = model(torch.tensor([3.0, 12.0]), shot=1e-3, read=1e-6, reference=3.0)
    assert (s1.item(), r1.item()) == pytest.approx((1e-3, 1e-6))
    assert (s2 / s1).item() == pytest.approx(4**shot_power) and (r2 / r1).item() == pytest.approx(
        4**read_power
    )


def test_scaled_noise_is_noise_before_the_gain():
    "Eq. (2) literally: noise of fixed parameters is added to the light, then all is multiplied by g."
    g, light = 5.0, torch.full((400, 400), 0.1)
    z = torch.randn(light.shape, generator=generator(3))
    literal = g * (light + (1e-4 + 1e-2 * light).sqrt() * z)
    shot, read = sensor_noise(torch.tensor(g), shot=1e-2, read=1e-4, reference=1.0)
    assert (read + shot * g * light).mean().item() == pytest.approx(literal.var().item(), rel=0.02)


@pytest.mark.parametrize("signal", [-0.2, 0.0, 0.3, 1.5])
def test_noise_has_the_stated_mean_and_variance(signal):
    shot, read = torch.tensor([0.02]), torch.tensor([0.001])
    noisy = add_noise(torch.full((1, 4, 200, 200), signal), shot, read, generator(4)).double()
    variance, n = 0.001 + 0.02 * max(signal, 0), noisy.numel()
    assert noisy.mean().item() == pytest.approx(signal, abs=5 * math.sqrt(variance / n))
    assert noisy.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / n))


def test_gradients_of_noise_agree_with_finite_differences():
    signal = torch.rand(2, 2, 1, 3, 3, dtype=torch.float64, generator=generator(5)) + 0.1
    shot, read = torch.rand(2, 2, 2, dtype=torch.float64, generator=generator(6)).add(0.1)
    inputs = [x.requires_grad_() for x in (signal, shot.clone(), read.clone())]
    assert torch.autograd.gradcheck(lambda *x: add_noise(*x, generator(7)), inputs)


def test_gradient_reaches_exposure_times_through_gains():
    times = torch.tensor([[1 / 240, 1 / 60]], requires_grad=True)
    shot, read = iso_noise(burst_gains(times, torch.tensor([512.0])))
    clean = torch.full((1, 2, 4, 8, 8), 0.4)
    (add_noise(clean, shot, read, generator(8)) - clean).square().sum().backward()
    assert (times.grad < 0).all()  # longer is less noisy


@pytest.mark.parametrize("signal", [-1.0, 0.0])
def test_no_nan_gradient_without_variance(signal):
    inputs = [x.requires_grad_() for x in (torch.full((1, 1, 2, 2), signal), torch.zeros(1), torch.zeros(1))]
    add_noise(*inputs, generator(9)).sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in inputs)


def test_noise_is_reproducible_and_keeps_precision():
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    a, b = add_noise(x, one, one, generator(1)), add_noise(x, one, one, generator(1))
    assert (
        a.dtype == torch.float64
        and torch.equal(a, b)
        and not torch.equal(a, add_noise(x, one, one, generator(2)))
    )


def test_jitter_follows_the_published_law():
    shot, read = iso_noise(torch.full((50000,), 1000.0, dtype=torch.float64))
    varied_shot, varied_read = jitter_noise(shot, read, generator(10))
    assert (varied_shot - shot).std().item() == pytest.approx(5e-5, rel=0.03)
    assert (varied_read.log() - 2.2282 * varied_shot.log() - 0.45982).std().item() == pytest.approx(
        0.25, rel=0.03
    )
    assert (varied_shot - shot).mean().abs() < 1e-6


# Colour filter, range, depth


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_site_shows_its_own_colour(pattern):
    rgb = torch.rand(2, 3, 6, 8, generator=generator(11))
    mosaic = bayer_mosaic(rgb, pattern)
    assert mosaic.shape == (2, 6, 8)
    for y in range(6):
        for x in range(8):
            assert torch.equal(mosaic[:, y, x], rgb[:, "RGB".index(pattern[2 * (y % 2) + x % 2]), y, x])


def test_mosaic_passes_each_gradient_once():
    rgb = torch.rand(3, 4, 4, requires_grad=True)
    bayer_mosaic(rgb).sum().backward()
    assert torch.equal(rgb.grad.sum(0), torch.ones(4, 4))


def test_clip_stops_gradients_outside_the_range():
    x = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    clip(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 0]


@pytest.mark.parametrize("bits", [1, 8, 10, 14, 16])
def test_quantisation_error_is_uniform(bits):
    x = torch.rand(40000, dtype=torch.float64, generator=generator(12))
    error = (quantise(x, bits) - x) * (2**bits - 1)
    assert error.abs().max() <= 0.5 + 1e-9
    assert error.var().item() == pytest.approx(1 / 12, rel=0.03)


def test_degrade_is_the_clean_picture_when_nothing_degrades():
    radiance = torch.rand(1, 1, 3, 8, 8, generator=generator(13)).expand(1, 5, 3, 8, 8)
    silent = lambda gain: (torch.zeros_like(gain), torch.zeros_like(gain))  # noqa: E731
    raw = degrade(radiance, torch.tensor([2.0]), 10 * FRAME_TIME, generator(0), noise=silent, bits=16)
    torch.testing.assert_close(raw, bayer_mosaic(radiance[:, 0]), atol=1e-5, rtol=0)


# Bad input

GOOD = torch.ones(1, 2)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: exposure_value(GOOD, -GOOD), "gain holds -1"),
        (lambda: exposure_value(-GOOD, GOOD), "exposure holds -1"),
        (lambda: exposure_value(GOOD, GOOD, -1.0), "k is -1"),
        (lambda: burst_gains(0 * GOOD, torch.ones(1)), "exposures holds 0"),
        (lambda: burst_gains(NAN * GOOD, torch.ones(1)), "not finite"),
        (lambda: burst_gains(GOOD, -torch.ones(1)), "preview_gain holds -1"),
        (lambda: burst_gains(GOOD, torch.ones(1), 0.0), "preview_time is 0"),
        (lambda: integrate(torch.zeros(1, 0, 3, 2, 2)), "no frame"),
        (lambda: integrate(torch.full((1, 1, 3, 2, 2), NAN)), "12 values"),
        (lambda: iso_noise(torch.tensor(0.0)), "gain holds 0"),
        (lambda: sensor_noise(torch.tensor(NAN)), "not finite"),
        (lambda: sensor_noise(torch.tensor(1.0), reference=0.0), "reference is 0"),
        (lambda: printed_noise(torch.tensor(-1.0)), "gain holds -1"),
        (
            lambda: add_noise(torch.full((1, 1, 2, 2), NAN), torch.ones(1), torch.ones(1), generator(0)),
            "signal holds 4",
        ),
        (
            lambda: add_noise(torch.zeros(1, 1, 2, 2), torch.ones(1), -torch.ones(1), generator(0)),
            "cannot be negative",
        ),
        (lambda: jitter_noise(torch.zeros(1), torch.ones(1), generator(0)), "shot holds 0"),
        (lambda: bayer_mosaic(torch.zeros(3, 4, 4), "RGBG"), "pattern is 'RGBG'"),
        (lambda: bayer_mosaic(torch.zeros(3, 5, 4)), "must be even"),
        (lambda: quantise(torch.zeros(1), 0), "bits is 0"),
        (lambda: quantise(torch.zeros(1), 17), "bits is 17"),
        (lambda: degrade(torch.zeros(1, 2, 3, 4, 4), torch.ones(1), 0.0, generator(0)), "k is 0"),
        (lambda: degrade(torch.zeros(1, 2, 3, 4, 4), -torch.ones(1), 1.0, generator(0)), "gain holds -1"),
    ],
)
def test_bad_input_is_answered(call, words):
    with pytest.raises(ValueError, match=words):
        call()
