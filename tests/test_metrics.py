"""Metrics: closed forms, borders, a loop that spells the bootstrap out, and one answer per bad input."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from debir_nb.core import generator
from debir_nb.scoring.metrics import (
    PairedDifference,
    _resampled_means,
    _stretch,
    paired_difference,
    psnr,
    ssim,
)


@pytest.fixture(params=[(4, torch.float32), (3, torch.float64)], ids=["packed", "sRGB"])
def pair(request):
    channels, dtype = request.param
    y = torch.rand(3, channels, 48, 40, generator=generator(0), dtype=dtype)
    strength = torch.tensor([0.01, 0.1, 0.3], dtype=dtype)[:, None, None, None]
    return (y + strength * torch.randn(y.shape, generator=generator(1), dtype=dtype)).clip(0, 1), y


def test_parity_with_scikit_image_scene_by_scene(pair):
    x, y = pair
    for i in range(3):
        a, b = (v[i, :, 10:-10, 10:-10].double().numpy() for v in (x, y))
        assert psnr(x, y)[i].item() == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1), abs=1e-4)
        # scikit-image drops this margin again
        a, b = (np.pad(v, ((0, 0), (5, 5), (5, 5)), mode="reflect") for v in (a, b))
        whole = structural_similarity(
            b, a, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ssim(x, y)[i].item() == pytest.approx(whole, abs=1e-4)


def test_one_value_per_scene_in_the_dtype_of_the_input(pair):
    for metric in (psnr, ssim):
        values = metric(*pair)
        assert values.shape == (3,) and values.dtype == pair[0].dtype and (values.diff() < 0).all()
        # a batch of one, and no mixing of scenes
        torch.testing.assert_close(values[1:2], metric(pair[0][1:2], pair[1][1:2]))


@pytest.mark.parametrize("metric, best", [(psnr, math.inf), (ssim, 1.0)])
def test_equal_images_and_border(pair, metric, best):
    x, y = pair
    assert (metric(y, y) == best).all()
    edge = x.clone()
    edge[..., :10, :], edge[..., -10:, :], edge[..., :10], edge[..., -10:] = 0, 1, 1, 0
    assert torch.equal(metric(edge, y), metric(x, y))
    edge[..., 10, 10] += 0.5
    assert not torch.equal(metric(edge, y), metric(x, y))


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    "shape, other, border, message",
    [
        ((1, 4, 40, 40), (1, 4, 40, 41), 10, "images of one size"),
        ((4, 40, 40), (4, 40, 40), 10, r"give \(b, 4, h, w\)"),
        ((1, 2, 40, 40), (1, 2, 40, 40), 10, r"\(1, 2, 40, 40\)"),
        ((0, 4, 40, 40), (0, 4, 40, 40), 10, r"\(0, 4, 40, 40\)"),
        ((1, 4, 40, 20), (1, 4, 40, 20), 10, "border is 10 px and the images are 40 x 20"),
        ((1, 4, 40, 40), (1, 4, 40, 40), -1, "border is -1"),
    ],
)
def test_shapes_and_borders_that_do_not_fit(metric, shape, other, border, message):
    with pytest.raises(ValueError, match=message):
        metric(torch.zeros(shape), torch.zeros(other), border)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite(metric, bad):
    x = torch.zeros(1, 4, 40, 40)
    x[0, 0, 0, 0] = bad  # even in the border
    for name, images in (("x", (x, torch.zeros_like(x))), ("y", (torch.zeros_like(x), x))):
        with pytest.raises(ValueError, match=f"{name} holds 1 values"):
            metric(*images)


def test_ssim_needs_its_window():
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(torch.zeros(1, 4, 30, 30), torch.zeros(1, 4, 30, 30))


def unequal():
    rng = np.random.default_rng(0)
    sizes = [2, 9, 5, 14]
    sources = rng.permutation(np.repeat(["a", "b", "c", "d"], sizes))
    return rng.normal(size=30) + 2 * (sources == "b"), sources


def test_resampling_is_the_loop_written_out():
    values, sources = unequal()
    rng, names, loop = np.random.default_rng(1), np.unique(sources), []
    for _ in range(4000):
        scenes = np.concatenate(
            [rng.choice(values[sources == s], (sources == s).sum()) for s in rng.choice(names, 4)]
        )
        loop.append(scenes.mean())
    fast = _resampled_means(values, np.unique(sources, return_inverse=True)[1], 4000, rng)
    assert stats.ks_2samp(loop, fast).pvalue > 0.01


def test_variance_of_resampled_means_has_its_closed_form():
    "Equal sizes: variance of the source means / S + mean variance within / (S m), both with divisor n."
    values = np.random.default_rng(2).normal(size=(6, 8)) + np.arange(6)[:, None]
    means = _resampled_means(values.ravel(), np.repeat(range(6), 8), 100_000, np.random.default_rng(3))
    assert means.var() == pytest.approx(values.mean(1).var() / 6 + values.var(1).mean() / 48, rel=0.02)
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)


def test_many_independent_scenes_give_the_normal_interval():
    d = np.random.default_rng(4).normal(0.1, 1, 2000)
    result = paired_difference(d, np.zeros(2000), range(2000), n_resamples=4000)
    half = 1.96 * d.std() / 2000**0.5
    assert result.low == pytest.approx(d.mean() - half, abs=0.005) and result.high == pytest.approx(
        d.mean() + half, abs=0.005
    )


def test_stretch_makes_the_interval_of_source_means_students():
    """With scenes that agree within a source, percentile bootstrap x stretch has the width of Student's t up
    to the shape of the draws.
    """
    assert _stretch(3) == pytest.approx((3 / 2) ** 0.5 * 4.30265 / 1.95996, rel=1e-4)
    effects = np.random.default_rng(5).normal(size=12)
    result = paired_difference(np.repeat(effects, 5), np.zeros(60), np.repeat(range(12), 5))
    student = 2 * stats.t.ppf(0.975, 11) * effects.std(ddof=1) / 12**0.5
    assert result.high - result.low == pytest.approx(student, rel=0.06)


def test_invariances():
    values, sources = unequal()
    result = paired_difference(values, np.zeros(30), sources, 2000)
    assert result == paired_difference(values, np.zeros(30), sources, 2000)
    assert result != paired_difference(values, np.zeros(30), sources, 2000, seed=1)
    assert result == paired_difference(torch.tensor(values), torch.zeros(30), list(sources), 2000)
    shifted = paired_difference(values + 33, np.full(30, 32.0), sources, 2000)
    assert [shifted.mean, shifted.low, shifted.high] == pytest.approx(
        [result.mean + 1, result.low + 1, result.high + 1]
    )
    assert (result.n_scenes, result.n_sources) == (30, 4) and result.mean == pytest.approx(values.mean())


def test_one_source_claims_nothing():
    result = paired_difference([3.0, 3.1], [1.0, 1.0], ["a", "a"])
    assert (result.low, result.high) == (-math.inf, math.inf)


def test_words():
    assert str(PairedDifference(0.62, 0.41, 0.8, 240, 4)) == "+0.62 dB [+0.41, +0.80], 240 scenes, 4 sources"
    assert (
        str(PairedDifference(-0.0012, -0.002, 0.0001, 1, 1, ""))
        == "-0.0012 [-0.0020, +0.0001], 1 scene, 1 source"
    )


@pytest.mark.parametrize(
    "ours, theirs, sources, n, message",
    [
        ([1.0, 2.0], [1.0], ["a", "b"], 9, r"shapes \(2,\), \(1,\)"),
        ([1.0, 2.0], [1.0, 2.0], ["a"], 9, r"and \(1,\)"),
        ([], [], [], 9, r"\(0,\)"),
        ([[1.0]], [[1.0]], [["a"]], 9, r"\(1, 1\)"),
        ([1.0, math.nan], [1.0, 2.0], ["a", "b"], 9, "ours holds 1"),
        ([math.inf, 1.0], [math.inf, 1.0], ["a", "b"], 9, "ours holds 1"),
        ([1.0, 2.0], [1.0, math.nan], ["a", "b"], 9, "theirs holds 1"),
        ([1.0, 2.0], [1.0, 1.0], ["a", "b"], 0, "n_resamples is 0"),
    ],
)
def test_pairs_that_cannot_be_compared(ours, theirs, sources, n, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(ours, theirs, sources, n)
