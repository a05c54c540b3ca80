"Exposure fusion: OpenCV's numbers, gradients, casts, and the network that learns it."

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data

from debir_nb.core import generator
from debir_nb.light.gyroscope import drawn_hand
from debir_nb.light.pairs import blur_by_hand, draw_pairs, for_display, make_pairs, middle_draws
from debir_nb.scoring.fusion import (
    FusionUNet,
    doubled,
    exposure_fusion,
    fit_cast,
    fusion_loss,
    fusion_target,
    half,
    halved,
    mertens_weights,
    mirrored,
    twice,
    without_cast,
)

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "lsd2_fusion.npz"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="the parity cases (shared/golden) are not here")


@needs_golden
@pytest.mark.parametrize(
    "exposedness, fused, weights", [(1.0, "cv2_111", "weights_111"), (0.0, "cv2_default", "weights_110")]
)
def test_fusion_is_the_published_one(exposedness, fused, weights):
    case = np.load(GOLDEN)
    pair = torch.from_numpy(case["pair"]).permute(0, 3, 1, 2)[None].float() / 255
    ours = mertens_weights(pair, exposedness=exposedness)[0].numpy()
    assert np.abs(ours - case[weights]).max() < 1e-6
    ours = exposure_fusion(pair, exposedness=exposedness)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - case[fused]).max() < 1e-4
    # without pyramids, or with the other default, it is another picture
    other = "cv2_default" if exposedness else "cv2_111"
    assert np.abs(ours - case[other]).mean() > 0.03 and np.abs(ours - case["naive_111"]).mean() > 0.01


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (16, 9), (33, 47)])
def test_levels_are_those_of_opencv(size):
    x = torch.rand(2, 3, *size, generator=generator(sum(size)))
    smaller = half(x)
    for picture, less in zip(x.flatten(0, 1).numpy(), smaller.flatten(0, 1).numpy()):
        assert np.abs(cv2.pyrDown(picture) - less).max() < 1e-6
        assert (
            np.abs(cv2.pyrUp(less, dstsize=size[::-1]) - twice(torch.tensor(less), size).numpy()).max() < 1e-6
        )


def test_axes_are_mirrored_and_each_is_halved_alone():
    assert mirrored(-2, 6, 4) == [2, 1, 0, 1, 2, 3, 2, 1] and mirrored(-2, 3, 1) == [0] * 5
    x = torch.rand(5, 8, generator=generator(0))
    assert halved(x, -1).shape == (5, 4) and halved(x, -2).shape == (3, 8)
    assert torch.allclose(halved(x, -2), halved(x.mT, -1).mT)
    assert torch.allclose(doubled(x, -2, 9), doubled(x.mT, -1, 9).mT)


def test_gradients_are_exact_and_finite_where_a_root_is_at_nought():
    x = torch.rand(1, 2, 3, 7, 10, dtype=torch.float64, generator=generator(3)).requires_grad_()
    assert torch.autograd.gradcheck(exposure_fusion, x, atol=1e-5)
    grey = (
        torch.rand(1, 2, 1, 9, 9, generator=generator(4)).expand(-1, -1, 3, -1, -1).clone().requires_grad_()
    )
    exposure_fusion(grey).square().sum().backward()
    assert torch.isfinite(grey.grad).all() and grey.grad.abs().max() > 0


def test_the_better_exposed_one_is_taken():
    ramp = torch.linspace(0.02, 1.0, 64).expand(48, -1)
    wave = 0.03 * torch.sin(torch.arange(48.0))[:, None] * torch.tensor([1.0, 0.5, -0.7])[:, None, None]
    scene = (ramp + wave).clamp(0.01, 1)[None]
    dark, bright = for_display(0.08 * scene), for_display((4 * scene).clamp(max=1))
    both = exposure_fusion(torch.stack([dark, bright], 1))[0]
    white = (bright[0].amin(0) > 0.999).float().mean(0) > 0.9
    assert white.any() and both[:, :, white].mean() < 0.8  # where the bright one is white, the dark one shows
    assert (
        both[:, :, :8].mean() > 1.3 * dark[0, :, :, :8].mean()
    )  # and where the dark one is dark, the bright one


def photo(key=0, size=(320, 224)):
    picture = (data.astronaut, data.coffee, data.chelsea)[key % 3]()
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) / 255.0
    return torch.from_numpy(small).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("key", range(6))
def test_casts_are_found_under_noise_blur_and_white(key):
    drawn, hand = draw_pairs(1, generator(2, key)), drawn_hand(generator(3, key), 0.4, 40.0)
    pair = make_pairs(photo(key), blur_by_hand([hand], 0.21, 0.2), drawn, generator(5, key))
    gain, lift = fit_cast(pair.short[0], pair.long[0])
    true = drawn.gain[0]
    assert torch.allclose(gain, true, rtol=0.1) and (lift - drawn.lift[0]).abs().max() < 0.005
    before, after = (g / g.mean() for g in (true, true / gain))
    assert (after - 1).abs().max() < max(0.08, 0.5 * (before - 1).abs().max())


def test_a_cast_is_taken_away_and_darkness_is_kept():
    drawn = middle_draws(1)
    light = torch.rand(3, 64, 64, generator=generator(0)) * 0.5 + 0.1
    short = for_display(drawn.gain[0][:, None, None] * light + drawn.lift[0][:, None, None])
    clean = without_cast(short, drawn.gain[0], drawn.lift[0])
    assert torch.allclose(clean, for_display(drawn.gain[0].mean() * light), atol=1e-5)


def test_frames_that_say_nothing_are_refused():
    grey, white = torch.full((3, 64, 64), 0.4), torch.ones(3, 64, 64)
    with pytest.raises(ValueError, match="white nearly everywhere"):
        fit_cast(grey, white)
    with pytest.raises(ValueError, match="the short exposure is black"):
        fit_cast(0 * grey, grey)
    with pytest.raises(ValueError, match="0 exposures of 8 x 8"):
        exposure_fusion(torch.rand(1, 0, 3, 8, 8))


def test_the_network_begins_at_the_bright_frame_and_learns_the_fusion_of_sharp_ones():
    torch.manual_seed(0)
    sharp, drawn = photo(size=(96, 64)), draw_pairs(1, generator(1))
    pair = make_pairs(sharp, lambda light: F.avg_pool2d(light, 5, 1, 2), drawn, generator(2))
    target, net = fusion_target(sharp, drawn), FusionUNet(4)
    assert torch.equal(net(pair.short, pair.long), pair.long)
    adam, losses = torch.optim.Adam(net.parameters(), 5e-3), []
    for _ in range(40):
        loss = fusion_loss(net, pair.short, pair.long, target)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx((pair.long - target).square().mean().item())
    assert losses[-1] < losses[0] / 2


def test_the_target_is_the_fusion_of_sharp_exposures_without_cast():
    sharp, drawn = photo(1, (64, 48)), middle_draws(1)
    light = 2 * sharp**2.2
    dark = drawn.gain.mean() * light
    both = torch.stack([x.clamp(max=1) ** (1 / 2.2) for x in (dark, light)], 1)
    assert torch.allclose(fusion_target(sharp, drawn), exposure_fusion(both), atol=1e-5)
