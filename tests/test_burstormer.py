"""Burstormer: parity with the published network, the deformable convolution against an explicit reference, and bad input."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from debir_nb.restorers.mean import weighted_mean

from debir_nb.core import generator
from debir_nb.light.sensor import still_burst
from debir_nb.restorers import burstormer
from debir_nb.restorers.burstormer import Burstormer, ChannelAttention, deform_conv, pass_through

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
CASES = ["burstormer_n4_raw", "burstormer_n8_gray"]
needs_golden = pytest.mark.skipif(
    not GOLDEN.exists(), reason="the parity cases of the published network (shared/golden) are not here"
)


@pytest.fixture(autouse=True)
def repeatable():
    "The same weights every time; one thread, for tensors too small to be shared."
    threads = torch.get_num_threads()
    torch.manual_seed(0), torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def golden(name):
    case = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(GOLDEN / f"{name}.npz").items()}
    return case, {k[2:]: v for k, v in case.items() if k.startswith("w/")}


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def burst_like(net, b=1, h=8, w=8, std=0.1):
    return still_burst(torch.rand(b, net.n_frames, net.in_channels, h, w), std)


@needs_golden
@pytest.mark.parametrize("name", CASES)
def test_parity_with_published_network(name):
    case, weights = golden(name)
    net = Burstormer.load_published(weights)
    burst = case["burst"].clone().requires_grad_()
    restored = net(still_burst(burst, 1.0))
    restored[0].square().mean().backward()
    assert relative(net.aligned_features(case["burst"]).movedim(-1, 2), case["aligned"]) < 1e-5
    assert relative(restored, case["restored"]) < 1e-5
    assert relative(burst.grad[0], case["grad_burst0"]) < 1e-4
    assert not burst.grad[1].any()  # a burst does not see its neighbour in the batch


@needs_golden
@pytest.mark.parametrize("name", CASES)
def test_each_burst_of_a_batch_as_alone(name):
    case, weights = golden(name)
    net = Burstormer.load_published(weights)
    together = net(still_burst(case["burst"], 1.0))
    for i in range(2):
        assert relative(net(still_burst(case["burst"][i : i + 1], 1.0)), together[i : i + 1]) < 1e-5


@needs_golden
def test_load_published_names_what_is_wrong():
    _, weights = golden(CASES[0])
    name = "align.alignment1.deform.weight"
    with pytest.raises(ValueError, match=f"lacks 1 weights.*{name}"):
        Burstormer.load_published({k: v for k, v in weights.items() if k != name})
    with pytest.raises(ValueError, match="unexpected 1 weights.*baenet.x"):
        Burstormer.load_published(weights | {"baenet.x": torch.zeros(1)})
    with pytest.raises(ValueError, match=f"another shape for 1 weights.*{name}"):
        Burstormer.load_published(weights | {name: torch.zeros(16, 16, 3, 3)})
    with pytest.raises(ValueError, match="without a prefix"):
        Burstormer.load_published({f"model.{k}": v for k, v in weights.items()})


def test_sizes_follow_from_weights():
    net = Burstormer(6, 3, 2, 8, residual=False)
    again = Burstormer.load_published(net.state_dict())
    burst = burst_like(net)
    assert again.n_frames == 6 and torch.equal(again(burst), net(burst))


def draw(g, *shape):
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def explicit_deform_conv(x, offset, mask, weight, bias, dilation):
    "One tap, one channel and one corner of the bilinear cell at a time, by indexing."
    (b, c, h, w), (c_out, c_in, kh, kw) = x.shape, weight.shape
    groups, out = mask.shape[1] // (kh * kw), bias.view(1, -1, 1, 1).repeat(b, 1, h, w)
    rows, columns = torch.arange(h).view(h, 1), torch.arange(w)
    for o in range(c_out):
        for i in range(c_in):
            channel = o // (c_out // (c // c_in)) * c_in + i
            for k in range(kh * kw):
                tap = channel // (c // groups) * kh * kw + k
                y = rows + dilation * (k // kw - kh // 2) + offset[:, 2 * tap]
                z = columns + dilation * (k % kw - kw // 2) + offset[:, 2 * tap + 1]
                value = 0
                for y0 in (y.floor(), y.floor() + 1):
                    for z0 in (z.floor(), z.floor() + 1):
                        inside = (y0 >= 0) & (y0 < h) & (z0 >= 0) & (z0 < w)
                        index = (y0.clamp(0, h - 1) * w + z0.clamp(0, w - 1)).long().flatten(1)
                        pixel = x[:, channel].flatten(1).gather(1, index).view(b, h, w)
                        value = value + inside * (1 - (y - y0).abs()) * (1 - (z - z0).abs()) * pixel
                out[:, o] = out[:, o] + weight[o, i, k // kw, k % kw] * mask[:, tap] * value
    return out


@pytest.mark.parametrize(
    "c, c_out, groups, offset_groups, kernel, dilation, size",
    [
        (16, 16, 8, 8, (3, 3), 2, (7, 9)),  # Burstormer's
        (6, 4, 2, 3, (3, 5), 1, (5, 6)),
        (4, 8, 1, 2, (1, 3), 3, (1, 8)),  # a single row
    ],
)
def test_deform_conv_against_explicit_reference(c, c_out, groups, offset_groups, kernel, dilation, size):
    g, taps = generator(3, c), kernel[0] * kernel[1]
    x, weight, bias = draw(g, 2, c, *size), draw(g, c_out, c // groups, *kernel), draw(g, c_out)
    offset, mask = (
        3 * draw(g, 2, 2 * offset_groups * taps, *size),
        draw(g, 2, offset_groups * taps, *size).sigmoid(),
    )
    ours = deform_conv(x, offset, mask, weight, bias, dilation)
    assert torch.allclose(ours, explicit_deform_conv(x, offset, mask, weight, bias, dilation), atol=1e-10)


def test_deform_conv_gradients():
    g = generator(4)
    # fractions kept off 0 and 1: bilinear interpolation has kinks on the pixel lattice
    offset = (
        torch.randint(-2, 3, (1, 36, 4, 5), generator=g)
        + 0.1
        + 0.8 * torch.rand(1, 36, 4, 5, generator=g, dtype=torch.float64)
    )
    inputs = [draw(g, 1, 4, 4, 5), offset, draw(g, 1, 18, 4, 5).sigmoid(), draw(g, 4, 2, 3, 3), draw(g, 4)]
    for i in inputs:
        i.requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: deform_conv(*a, dilation=2), inputs)


@pytest.mark.parametrize(
    "change, match",
    [
        (dict(weight=torch.zeros(4, 3, 3, 3)), "does not group the 4 channels"),
        (dict(weight=torch.zeros(4, 2, 2, 2)), "2x2 kernel: both sides must be odd"),
        (dict(mask=torch.zeros(1, 17, 5, 5)), "mask has 17 channels"),
        (dict(offset=torch.zeros(1, 18, 5, 5)), "offset has 18 channels"),
    ],
)
def test_deform_conv_channels_must_fit(change, match):
    inputs = dict(x=torch.zeros(1, 4, 5, 5), offset=torch.zeros(1, 36, 5, 5), mask=torch.zeros(1, 18, 5, 5))
    inputs |= dict(weight=torch.zeros(4, 2, 3, 3), bias=torch.zeros(4))
    with pytest.raises(ValueError, match=match):
        deform_conv(**inputs | change)


def test_attention_of_a_black_frame_is_finite():
    attention, x = ChannelAttention(8, 2), torch.zeros(1, 4, 4, 8, requires_grad=True)
    attention(x).sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in attention.parameters())


@pytest.mark.parametrize("wide, huge", [(0, 2**22), (2**21, 0), (0, 0)])
def test_what_is_recomputed_changes_no_gradient(monkeypatch, wide, huge):
    torch.manual_seed(0)
    net = Burstormer(2, 4, 4, 8, residual=False)
    burst = burst_like(net)

    def run():
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            loss = net(burst).square().sum()
        return torch.autograd.grad(loss, list(net.parameters())), sum(kept)

    remembered, values = run()
    monkeypatch.setattr(burstormer, "WIDE", wide), monkeypatch.setattr(burstormer, "HUGE", huge)
    recomputed, fewer = run()
    assert fewer < values and all(torch.equal(a, b) for a, b in zip(remembered, recomputed, strict=True))


@pytest.mark.parametrize("h, w", [(8, 8), (9, 10), (4, 7), (5, 4)])
def test_any_size_is_padded_by_reflection_and_cropped(h, w):
    net = Burstormer(2, 4, 4, 8, residual=False)
    burst = burst_like(net, h=h, w=w)
    sides = [(0, 0)] * 3 + [(0, -h % 4), (0, -w % 4)]
    padded = still_burst(torch.from_numpy(np.pad(burst.frames.numpy(), sides, mode="reflect")), 0.1)
    assert net(burst).shape == (1, 4, h, w)
    assert torch.equal(net(burst), net(padded)[..., :h, :w])


@pytest.mark.parametrize("n", [2, 6])
def test_untrained_residual_form_is_the_weighted_mean(n):
    net = Burstormer(n, 4, 4, 8)
    std = torch.rand(2, n) + 0.1
    burst = burst_like(net, 2, std=std)
    assert torch.allclose(net(burst), weighted_mean(burst.frames, std), atol=1e-6)
    # only ratios count, however small
    assert torch.allclose(net(still_burst(burst.frames, 1e-10 * std)), net(burst), atol=1e-6)


def test_near_identity_start_keeps_frames_apart_and_in_place():
    """Untrained aligned features at a pixel change with their own frame there, and hardly with other frames
    or far pixels.
    """
    net = Burstormer(4, 4, 4, 8)
    burst = burst_like(net, h=16, w=16).frames.requires_grad_()
    net.aligned_features(burst)[0, 2, 8, 8].square().sum().backward()
    share = burst.grad[0].abs().sum(1) / burst.grad.abs().sum()
    assert share[2, 6:11, 6:11].sum() > 0.4
    assert share[1].sum() < 0.15 and share[3].sum() < 0.15  # frames 2 and 4


def test_pass_through_averages_small_signals():
    conv = torch.nn.Conv2d(12, 4, 3, padding=1)
    pass_through(conv, [1 / 3] * 3)
    conv.weight.data[conv.weight.abs() < 0.1] = 0  # what is left of the random weights
    x = 1e-3 * torch.randn(1, 3, 4, 5, 5)
    assert torch.allclose(F.gelu(conv(x.flatten(1, 2))), x.mean(1), rtol=0.2, atol=1e-4)


def test_everything_learns_within_six_steps():
    """Zeros wait for each other: first the output convolution moves, then the zeros before it, then what
    feeds those, down the levels.
    """
    net = Burstormer(2, 4, 4, 8)
    burst = burst_like(net, 2)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(6):
        optimiser.zero_grad()
        (net(burst) - burst.frames[:, 0].roll(1, -1)).square().mean().backward()
        optimiser.step()
    assert [name for name, p in net.named_parameters() if not p.grad.any()] == []


def test_gradient_reaches_burst_and_noise():
    net = Burstormer(2, 4, 4, 8).double()
    burst = burst_like(net, 1, 4, 4).frames.double().requires_grad_()
    std = torch.tensor([[0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    torch.nn.init.normal_(net.out_conv[0].weight, std=0.1)
    direction = [torch.randn_like(burst), torch.randn_like(std)]
    gradient = torch.autograd.grad(net(still_burst(burst, std)).square().sum(), [burst, std])
    moved = [(burst.detach() + e * direction[0], std.detach() + e * direction[1]) for e in (1e-6, -1e-6)]
    ends = [net(still_burst(*there)).square().sum().item() for there in moved]
    slope = (ends[0] - ends[1]) / 2e-6
    assert sum((g * d).sum() for g, d in zip(gradient, direction)).item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize(
    "sizes, match",
    [
        (dict(n_frames=3), "n_frames is 3"),
        (dict(n_frames=0), "n_frames is 0"),
        (dict(features=12), "features is 12"),
        (dict(in_channels=0), "in_channels is 0"),
        (dict(in_channels=2, out_channels=1), "pass residual=False"),
    ],
)
def test_sizes_that_cannot_be(sizes, match):
    with pytest.raises(ValueError, match=match):
        Burstormer(**dict(features=8) | sizes)


@pytest.mark.parametrize(
    "shape, std, match",
    [
        ((1, 4, 4, 8, 8), 0.1, "burst has 4 frames: Burstormer takes 2"),
        ((1, 2, 3, 8, 8), 0.1, "burst has 3 channels"),
        ((1, 2, 4, 3, 8), 0.1, "at least 4x4"),
        ((1, 2, 4, 8, 8), 0.0, "without noise"),
        ((1, 2, 4, 8, 8), torch.nan, "without noise"),
    ],
)
def test_bad_bursts(shape, std, match):
    with pytest.raises(ValueError, match=match):
        Burstormer(2, 4, 4, 8)(still_burst(torch.rand(shape), std))


def test_frames_that_were_not_taken_are_refused():
    burst = still_burst(torch.rand(1, 2, 4, 8, 8), 0.1).leave_out(torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="1 frames taken"):
        Burstormer(2, 4, 4, 8)(burst)


def test_burst_with_nan():
    burst = torch.rand(1, 2, 4, 8, 8)
    burst[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="burst holds 1 values that are not finite"):
        Burstormer(2, 4, 4, 8, residual=False)(still_burst(burst, 1.0))
