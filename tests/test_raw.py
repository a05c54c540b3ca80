"""Packing, colour and developing: exact round trips, exactness of the demosaicking, gradients, bad input."""

import pytest
import torch

from debir_nb.core import generator
from debir_nb.light.raw import (
    RGB2CAM,
    CameraColour,
    apply_matrix,
    demosaic,
    dequantise,
    develop,
    linear_to_srgb,
    malvar_filters,
    pack,
    random_colour,
    render,
    sample_cfa,
    srgb_to_linear,
    to_camera,
    unpack,
    unprocess,
)

PATTERNS = ["RGGB", "BGGR", "GRBG", "GBRG"]
NAN = float("nan")


def waves(h=32, w=40):
    "A smooth picture with structure in every colour."
    y, x = torch.meshgrid(
        torch.arange(h, dtype=torch.float64), torch.arange(w, dtype=torch.float64), indexing="ij"
    )
    return torch.stack([0.5 + 0.3 * torch.sin(0.06 * x + 0.04 * y + 0.3 * i) for i in range(3)])


def cameras(batch=4, seed=0):
    return random_colour(batch, generator(seed))


# Packing


@pytest.mark.parametrize("pattern", PATTERNS)
def test_planes_have_one_order_for_all_patterns(pattern):
    y, x = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    mosaic = torch.tensor(
        [["RGB".index(pattern[2 * (j % 2) + i % 2]) for i in range(6)] for j in range(4)], dtype=torch.float32
    )
    assert [plane.unique().tolist() for plane in pack(mosaic, pattern)] == [[0], [1], [1], [2]]
    red, red_green, blue_green, blue = pack(y.float(), pattern)
    assert torch.equal(red, red_green) and torch.equal(blue, blue_green) and not torch.equal(red, blue)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_packing_round_trip(pattern, batch):
    packed = torch.rand(*batch, 4, 3, 5, generator=generator(0))
    assert torch.equal(pack(unpack(packed, pattern), pattern), packed)


# Transfer functions


def test_the_srgb_curve_at_published_points():
    "IEC 61966-2-1: code 118 is 18 % grey to a thousandth, both branches meet."
    x = torch.tensor([0.0, 0.04045, 118 / 255, 1.0], dtype=torch.float64)
    assert srgb_to_linear(x).tolist() == pytest.approx([0, 0.0031308, 0.18116, 1], abs=1e-5)
    assert linear_to_srgb(srgb_to_linear(x)).tolist() == pytest.approx(x.tolist(), abs=1e-6)


@pytest.mark.parametrize("curve", [srgb_to_linear, linear_to_srgb])
def test_slopes_are_finite_and_right(curve):
    x = torch.tensor([-1.0, 0.0, 1e-12, 0.002, 0.02, 0.3, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    curve(x).sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad > 0).all()
    step = (curve(x.detach() + 1e-7) - curve(x.detach() - 1e-7)) / 2e-7
    torch.testing.assert_close(x.grad, step, rtol=1e-5, atol=1e-6)


# Colour


def test_matrix_is_matrix_then_balance_then_gain():
    colour = CameraColour(RGB2CAM[:1], torch.tensor([2.0]), torch.tensor([1.5]), torch.tensor([1.25]))
    torch.testing.assert_close(
        colour.matrix()[0].sum(-1), torch.tensor([0.4, 0.8, 0.8 / 1.5]), atol=2e-5, rtol=0
    )


def test_random_cameras_have_the_published_statistics():
    colour = cameras(6000)
    for gain, low, high in [(colour.red_gain, 1.9, 2.4), (colour.blue_gain, 1.5, 1.9)]:
        assert gain.min() >= low and gain.max() <= high and abs(gain.mean() - (low + high) / 2) < 0.01
    brightness = 1 / colour.rgb_gain
    assert abs(brightness.mean() - 0.8) < 0.005 and abs(brightness.std() - 0.1) < 0.004
    counts = [(colour.rgb2cam == matrix).all(-1).all(-1).sum().item() for matrix in RGB2CAM]
    assert sum(counts) == 6000 and min(counts) > 1800
    assert torch.equal(cameras(3, 5).matrix(), cameras(3, 5).matrix())


@pytest.mark.parametrize("shape", [(4, 3, 8, 6), (4, 5, 3, 8, 6)])
def test_unprocess_and_render_undo_each_other_within_half_a_code(shape):
    # below the highlights: 0.89 of the light
    srgb = torch.randint(0, 243, shape, generator=generator(1)) / 255
    back = render(unprocess(srgb, cameras()), cameras())
    assert torch.equal((back * 255).round(), (srgb * 255).round())


def test_highlights_stay_white_and_keep_their_order():
    colour = cameras()
    grey = torch.linspace(0, 1, 201).expand(4, 3, 1, -1)
    seen, plain = to_camera(grey, colour)[..., 0, :], apply_matrix(colour.matrix(), grey)[..., 0, :]
    torch.testing.assert_close(seen[..., :180], plain[..., :180])
    # a camera may be brighter than its display
    assert ((seen[..., -1] - 1).abs() < 1e-4).logical_or(plain[..., -1] > 1).all()
    assert (seen.diff(dim=-1) > -1e-6).all()
    torch.testing.assert_close(
        render(seen[..., None, :], colour)[..., -1], torch.ones(4, 3, 1), atol=1e-4, rtol=0
    )  # white comes back white
    half = 0.9 + 0.1 * 0.5**0.5  # here the gains have half their effect
    torch.testing.assert_close(
        to_camera(torch.full((4, 3, 1, 1), half), colour)[..., 0, 0],
        torch.maximum(half * (0.5 + 0.5 * colour.balance()), half * colour.balance()),
        rtol=1e-4,
        atol=1e-5,
    )


def test_dequantised_values_fill_their_step_evenly_and_round_back():
    codes = torch.arange(256, dtype=torch.uint8).repeat_interleave(4000)
    values = dequantise(codes, generator(0))
    assert (
        torch.equal((255 * values).round().to(torch.uint8), codes) and values.min() >= 0 and values.max() <= 1
    )
    offset = (255 * values - codes).view(256, 4000)[1:-1]
    assert offset.mean(1).abs().max() < 0.025 and abs(offset.var() - 1 / 12) < 1e-3


def test_each_picture_has_its_own_camera():
    srgb = torch.rand(4, 3, 4, 4, generator=generator(2))
    colour = cameras()
    one = CameraColour(colour.rgb2cam[2:3], colour.red_gain[2:3], colour.blue_gain[2:3], colour.rgb_gain[2:3])
    torch.testing.assert_close(unprocess(srgb, colour)[2:3], unprocess(srgb[2:3], one))


def test_colour_commutes_with_integration_over_time_and_with_the_filter():
    light, matrix = torch.rand(4, 6, 3, 8, 8, generator=generator(3)), cameras().matrix()
    late = sample_cfa(apply_matrix(matrix, light.mean(1)))
    torch.testing.assert_close(sample_cfa(apply_matrix(matrix, light)).mean(1), late)


def test_precision_follows_the_picture():
    srgb = torch.rand(4, 3, 4, 4, dtype=torch.float64)
    assert (
        unprocess(srgb, cameras()).dtype
        == develop(torch.rand(4, 4, 2, 2, dtype=torch.float64), cameras()).dtype
        == torch.float64
    )


# Demosaicking


def test_demosaic_keeps_every_measured_sample():
    packed = torch.rand(2, 4, 6, 7, generator=generator(4))
    assert torch.equal(sample_cfa(demosaic(packed)), packed)


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.01, 0.0), (0.0, 0.01), (0.01, -0.02)])
def test_demosaic_is_exact_on_grey_ramps(slope):
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(20.0), indexing="ij")
    grey = (0.5 + slope[0] * y + slope[1] * x).expand(3, -1, -1)
    torch.testing.assert_close(demosaic(sample_cfa(grey))[:, 2:-2, 2:-2], grey[:, 2:-2, 2:-2])


def test_demosaic_on_flat_colours_is_exact_to_the_border():
    colour = torch.rand(3, 1, 1, generator=generator(5)).expand(3, 8, 8)
    torch.testing.assert_close(demosaic(sample_cfa(colour)), colour)


def test_demosaic_against_the_published_filters_pixel_by_pixel():
    "Each of the eight cases of Malvar et al., written out as coefficients of one window."
    rgb = torch.rand(3, 12, 12, dtype=torch.float64, generator=generator(6))
    packed = sample_cfa(rgb)
    mosaic, full = unpack(packed), demosaic(packed)

    def at(y, x, dy, dx):
        return (
            sum(mosaic[y + sy * dy, x + sx * dx] for sy, sx in {(1, 1), (1, -1), (-1, 1), (-1, -1)}) / 4
        )  # mean over the mirror images

    cross = lambda y, x: (
        (4 * mosaic[y, x] + 4 * (at(y, x, 1, 0) + at(y, x, 0, 1)) - 2 * (at(y, x, 2, 0) + at(y, x, 0, 2))) / 8
    )  # noqa: E731
    corner = lambda y, x: (6 * mosaic[y, x] + 8 * at(y, x, 1, 1) - 3 * (at(y, x, 2, 0) + at(y, x, 0, 2))) / 8  # noqa: E731
    row = lambda y, x: (
        (5 * mosaic[y, x] + 8 * at(y, x, 0, 1) - 2 * at(y, x, 0, 2) - 4 * at(y, x, 1, 1) + at(y, x, 2, 0)) / 8
    )  # noqa: E731
    column = lambda y, x: (
        (5 * mosaic[y, x] + 8 * at(y, x, 1, 0) - 2 * at(y, x, 2, 0) - 4 * at(y, x, 1, 1) + at(y, x, 0, 2)) / 8
    )  # noqa: E731
    cases = {
        (1, 4, 4): cross,
        (1, 5, 5): cross,
        (2, 4, 4): corner,
        (0, 5, 5): corner,
        (0, 4, 5): row,
        (2, 4, 5): column,
        (0, 5, 4): column,
        (2, 5, 4): row,
    }
    for (c, y, x), interpolate in cases.items():
        torch.testing.assert_close(full[c, y, x], interpolate(y, x))


def test_demosaic_is_linear_and_differentiable():
    packed = torch.rand(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(demosaic, packed)
    torch.testing.assert_close(demosaic(3 * packed), 3 * demosaic(packed))
    assert malvar_filters().sum() == 4


def test_develop_recovers_a_smooth_photograph():
    srgb = waves()[None].expand(4, -1, -1, -1)
    developed = develop(sample_cfa(unprocess(srgb, cameras())), cameras())
    assert (developed - srgb)[..., 4:-4, 4:-4].abs().max() < 2 / 255


def test_develop_has_finite_gradients_at_black_and_white():
    packed = torch.cat([torch.zeros(4, 4, 2, 2), torch.ones(4, 4, 2, 2)], -1).requires_grad_()
    develop(packed, cameras()).sum().backward()
    assert torch.isfinite(packed.grad).all()


# Bad input

GAIN = torch.ones(1)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: pack(torch.zeros(4, 5)), "must be even"),
        (lambda: pack(torch.zeros(4, 4), "XTRANS"), "pattern is 'XTRANS'"),
        (lambda: unpack(torch.zeros(4, 2, 2), "rggb"), "pattern is 'rggb'"),
        (lambda: sample_cfa(torch.zeros(3, 3, 4)), "must be even"),
        (lambda: random_colour(0, generator(0)), "batch is 0"),
        (lambda: CameraColour(RGB2CAM[:1], -GAIN, GAIN, GAIN), "red_gain holds -1"),
        (lambda: CameraColour(NAN * RGB2CAM[:1], GAIN, GAIN, GAIN), "rgb2cam holds 9"),
        (lambda: unprocess(torch.full((4, 3, 2, 2), NAN), cameras()), "srgb holds 48"),
        (lambda: unprocess(torch.zeros(3, 3, 2, 2), cameras()), "4 colour matrices for 3 pictures"),
        (lambda: render(torch.zeros(1, 3, 2, 2), cameras()), "4 colour matrices for 1 pictures"),
        (lambda: demosaic(torch.zeros(4, 1, 8)), "at least 2x2"),
    ],
)
def test_bad_input_is_answered(call, words):
    with pytest.raises(ValueError, match=words):
        call()
