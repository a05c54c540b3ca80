"LSD2's U-Net: the published numbers, its weights, and the restorer made of it."

from pathlib import Path

import numpy as np
import pytest
import torch

from debir_nb.core import generator
from debir_nb.light.sensor import Burst, still_burst
from debir_nb.restorers.unet import PairUNet, UNet, UNetRestorer, first_guess

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "lsd2_published.npz"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="the parity cases (shared/golden) are not here")


@pytest.fixture(scope="module")
def published():
    "Weights in the order of use, and pictures (b, 3, h, w)."
    case = np.load(GOLDEN)
    weights = {name[2:]: case[name] for name in case if name.startswith("w/")}
    return weights, *(torch.tensor(case[k]).permute(0, 3, 1, 2) for k in ("short", "long", "output"))


@needs_golden
def test_the_published_network_answers_the_published_numbers(published):
    weights, short, long, output = published
    net = PairUNet.load_published(weights)
    with torch.no_grad():
        assert (net(short, long) - output).abs().max() < 1e-5
        assert (net(long, short) - output).abs().max() > 1e-3  # the order counts
    assert sum(p.numel() for p in net.parameters()) == sum(w.size for w in weights.values())


@needs_golden
def test_a_u_net_that_is_nearly_right_is_seen(published):
    "Zeros at the left and top where a side is odd, or the skip before what comes up."
    weights, short, long, output = published
    net = PairUNet.load_published(weights)
    moved = torch.roll(torch.cat([long, short], 1), (1, 1), (2, 3))
    with torch.no_grad():
        assert (torch.roll(net.net(moved), (-1, -1), (2, 3)) - output)[..., 2:-2, 2:-2].abs().max() > 1e-4
        for block in net.net.join:
            half = block.first.weight.shape[1] // 2
            block.first.weight.data = torch.roll(block.first.weight, half, 1)
        assert (net(short, long) - output).abs().max() > 1e-3


@needs_golden
def test_published_weights_that_do_not_fit_are_refused(published):
    weights, names = published[0], sorted(published[0])
    bad = {
        "22 kernels": {k: weights[k] for k in names if "22_conv2d_kernel" not in k},
        "layer 10 has a kernel": weights | {names[20]: weights[names[22]], names[21]: weights[names[23]]},
    }
    bad["47 arrays"] = weights | {"optimizer": np.zeros(3)}
    for words, given in bad.items():
        with pytest.raises(ValueError, match=words):
            PairUNet.load_published(given)


def test_the_published_size():
    assert sum(p.numel() for p in UNet(6, 3, 64).parameters()) == 31_033_603


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (45, 70), (33, 16)])
def test_odd_sizes_come_back_whole(size):
    torch.manual_seed(0)
    net = PairUNet(2)
    pair = torch.rand(2, 2, 3, *size, generator=generator(1))
    together = net(*pair)
    assert together.shape == (2, 3, *size)
    alone = torch.cat([net(*pair[:, k : k + 1]) for k in (0, 1)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_pixels_beyond_its_reach_do_not_matter():
    "Three halvings: what is farther than `reach` away is not seen, what is nearer may be."
    torch.manual_seed(0)
    net = UNetRestorer(2, 4).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.abs() + 0.05)  # nothing cancels
        burst = still_burst(torch.full((1, 2, 4, 160, 160), 0.5), 0.1)
        felt = []
        for r in (net.reach, 24):
            y, x = ((torch.arange(160) - 80).abs() for _ in range(2))
            far = torch.maximum(y[:, None], x[None]) > r
            frames = torch.where(far, 0.9, burst.frames)
            other = Burst(frames, burst.shot, burst.read, burst.start, burst.stop)
            felt.append((net(other) - net(burst))[..., 80, 80].abs().max().item())
    assert felt[0] < 1e-5 < felt[1]


def test_a_white_long_frame_does_not_shift_the_first_guess():
    frames = torch.full((1, 2, 4, 16, 16), 0.6)
    frames[:, 1, :, 4:8] = 0.3  # white at 0.3
    counts = torch.ones_like(frames, dtype=torch.bool)
    counts[:, 1, :, 4:8] = False
    noise, times = torch.tensor([[1e-2, 1e-4]]), torch.tensor([[0.0, 1.0]])
    seen = Burst(frames, 0 * noise, noise, times, times + 0.5, counts)
    assert torch.allclose(first_guess(seen), torch.full((1, 4, 16, 16), 0.6))
    none = Burst(frames, 0 * noise, noise, times, times + 0.5, torch.zeros_like(counts))
    assert torch.isfinite(first_guess(none)).all()
    left = seen.leave_out(torch.tensor([[True, False]]))
    assert torch.allclose(first_guess(left), frames[:, 0])


def test_it_learns_a_correction_of_the_mean():
    "A burst whose second frame is wrong by a constant: the mean alone cannot know, the network can."
    torch.manual_seed(0)
    net = UNetRestorer(2, 4)
    adam = torch.optim.Adam(net.parameters(), 5e-3)
    truth = torch.rand(4, 4, 16, 16, generator=generator(2)) * 0.5 + 0.2
    burst = still_burst(torch.stack([truth, truth + 0.2], 1), 0.1)
    errors = []
    for _ in range(80):
        error = (net(burst) - truth).square().mean()
        adam.zero_grad()
        error.backward()
        adam.step()
        errors.append(error.item())
    assert errors[0] == pytest.approx(0.01, rel=1e-3) and errors[-1] < errors[0] / 4
