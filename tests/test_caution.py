"What is restored is not below frame 1: brackets, single photographs, bursts of one brightness, any restorer."

from fractions import Fraction

import numpy as np
import pytest
import torch
from drawn_raw import mosaicked

from debir_nb.cameras.files import restore_photos, to_burst
from debir_nb.core import generator
from debir_nb.light.dng import RawPhoto, normalise
from debir_nb.light.raw import pack
from debir_nb.light.sensor import still_burst
from debir_nb.restorers.caution import Cautious, followed, least_risk, near_first
from debir_nb.restorers.full_size import restore_full_size
from debir_nb.restorers.kernels import TAPS, Kernels
from debir_nb.restorers.merge import evidence
from debir_nb.restorers.protocol import RestorerNet
from debir_nb.weights.pretrained import load_pretrained


class Ruin(RestorerNet):
    "Blurs frame 1 over 5 x 5 px."

    reach, any_instant, frames_taken = 2, True, range(1, 17)

    def tile_bytes(self, side, n_frames):
        return 100 * side**2

    def forward(self, burst):
        return torch.nn.functional.avg_pool2d(burst.frames[:, 0], 5, 1, 2)


NOISE = {100: (1e-4, 1e-7), 1600: (1e-3, 1e-6)}


@pytest.fixture(scope="module")
def restorer():
    return load_pretrained()[1]


def discs(h=128, w=160, seed=1):
    "Opaque striped discs of many sizes, some as bright as white, drawn twice as large: a lens has no finer edges."
    h, w = 2 * h, 2 * w
    g, (y, x) = np.random.default_rng(seed), np.mgrid[:h, :w]
    out = np.full((h, w, 3), 0.2)
    for _ in range(350):
        cy, cx, radius = g.uniform(0, h), g.uniform(0, w), 6 / g.uniform(0.02, 1) ** 0.6
        inside = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        colour = g.uniform(0.02, 1, 3) ** 2 * g.uniform(0.3, 1.2)
        stripes = 1 + 0.15 * np.sin((x + 2 * y)[..., None] * g.uniform(0.1, 0.75))
        out[inside] = (colour * stripes).clip(0, 1)[inside]
    return out.reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3))


def photo(light, ev, iso, seed, hot=None):
    "One frame of a bracket: 14 bits, its noise told."
    shot, read = NOISE[iso]
    x = light * 2.0**ev
    y = x + np.random.default_rng(seed).normal(size=x.shape) * np.sqrt(shot * x + read)
    mosaic = np.clip(np.rint(512 + y * (16383 - 512)), 0, 16383)
    if hot is not None:
        mosaic[hot] = np.minimum(mosaic[hot] + 9000 * 2.0**ev, 16383)
    return RawPhoto(
        mosaic=mosaic.astype(np.uint16),
        pattern="RGGB",
        black=np.full((2, 2), 512.0),
        white=16383,
        exposure=Fraction(2.0**ev / 30),
        iso=float(iso),
        noise=(shot, read),
    )


def shots(evs, iso, motion, hot=None):
    "A bracket of a scene that moves by so many px from frame to frame, and the truth of frame 1."
    lights = [mosaicked(np.roll(discs(), -motion * i, 1)) for i in range(len(evs))]
    frames = [photo(light, ev, iso, i, hot) for i, (light, ev) in enumerate(zip(lights, evs))]
    return frames, pack(torch.from_numpy((lights[0] * 2.0 ** evs[0]).clip(0, 1)).float())


def decibels(picture, truth):
    return -10 * (picture - truth)[..., 5:-5, 5:-5].square().mean().log10().item()


@pytest.mark.parametrize("iso, motion", [(100, 0), (100, 1), (1600, 1)])
@pytest.mark.parametrize("evs", [(0, -6, -6, -6), (0, 4), (0, -2, 2), (0, -4)], ids=str)
def test_what_is_restored_is_not_below_frame_1(restorer, evs, iso, motion):
    frames, truth = shots(evs, iso, motion)
    assert decibels(restore_photos(frames, restorer)[0], truth) > decibels(normalise(frames[0]), truth) - 0.1


@pytest.mark.parametrize("iso", [100, 1600])
@pytest.mark.parametrize("n, motion", [(1, 0), (3, 0), (3, 3), (6, 9)])
def test_a_burst_of_equal_frames_is_not_below_frame_1_either(restorer, n, motion, iso):
    frames, truth = shots((0,) * n, iso, motion)
    first = decibels(normalise(frames[0]), truth)
    assert decibels(restore_photos(frames, restorer)[0], truth) > first + (
        3 if n == 3 and not motion else -0.1
    )


@pytest.mark.parametrize("evs", [(0, 0, 0), (0, -3)], ids=str)
def test_no_restorer_harms(evs):
    "One that blurs whatever it is given."
    frames, truth = shots(evs, 100, 1)
    first = decibels(normalise(frames[0]), truth)
    assert decibels(restore_full_size(Ruin(), to_burst(frames))[0], truth) < first - 10
    assert decibels(restore_photos(frames, Ruin())[0], truth) > first - 0.2


def test_noise_is_told_from_detail_in_any_picture():
    "Weights stay in their triangle, and where noise explains every difference the network is followed."
    g = generator(7)
    pairs = torch.randn(2, 300, 1, 1, 5, generator=g)
    a = tuple((pairs[i] * pairs[j]).mean(-1, keepdim=True) for i, j in ((0, 0), (0, 1), (1, 1)))
    x, y = least_risk(a, (a[1] - 0.1, -0.1 * torch.ones(300, 1, 1, 1)))
    assert (y * (1 - x - y) >= 0).all() and (x + y <= 1 + 1e-6).all()
    assert (least_risk(a, (-a[0], -a[2]))[0] == 0).all() and (least_risk(a, (-a[0], -a[2]))[1] == 0).all()


def test_a_defect_does_not_come_back_by_way_of_frame_1(restorer):
    g = np.random.default_rng(0)
    hot, spots = tuple(2 * g.integers(6, 58, (2, 12))), np.zeros((128, 160), bool)
    frames, truth = shots((0, 2, -2), 1600, 0, hot)
    spots[hot] = True
    found = pack(torch.from_numpy(spots)) & ~to_burst(frames).counts[0].any(0)
    error = (restore_photos(frames, restorer)[0] - truth).abs()[found]
    before = (normalise(frames[0]) - truth)[found]
    assert found.sum() > 4 and before.mean() > 0.4 and error.mean() < before.mean() / 5


@pytest.mark.parametrize("std", [0.01, 0.05, 0.2])
def test_the_mixture_is_as_good_as_the_better_of_both(std):
    "Kernels of which a part is right and another ruin, over noise of any strength."
    g = generator(0)
    truth = torch.rand(1, 4, 8, 24, generator=g).repeat_interleave(16, 2).repeat_interleave(16, 3)
    truth[..., 192:] = torch.rand(1, 4, 128, 192, generator=g)  # left: areas; right: nothing but detail
    seen = evidence(still_burst(truth[:, None] + std * torch.randn(1, 2, 4, 128, 384, generator=g), std))
    kernels = torch.full((1, 2, TAPS**2, 128, 384), 0.5 / TAPS**2)
    smooth = torch.nn.functional.avg_pool2d(seen.merged, TAPS, 1, TAPS // 2, count_include_pad=False)
    mixed = followed(seen, kernels, smooth)
    for part in (slice(5, 187), slice(197, 379)):
        best = max(decibels(p[..., part], truth[..., part]) for p in (seen.merged, smooth))
        assert decibels(mixed[..., part], truth[..., part]) > best - 0.5


def test_noise_alone_moves_a_right_picture_hardly():
    g = generator(0)
    truth = 0.2 + 0.5 * torch.rand(1, 4, 1, 1, generator=g).expand(-1, -1, 128, 128)
    burst = still_burst(truth[:, None] + 0.05 * torch.randn(1, 2, 4, 128, 128, generator=g), 0.05)
    assert (near_first(truth, burst) - truth).square().mean().sqrt() < 0.1 * 0.05


def test_tiles_and_the_whole_picture_agree():
    torch.manual_seed(0)
    net = Kernels.fresh(2, 8)
    for weights in net.parameters():
        weights.data += 0.02 * torch.randn_like(weights)
    careful = Cautious(net).eval()
    frames = (
        torch.rand(1, 1, 4, 24, 40, generator=generator(1)).repeat_interleave(8, 3).repeat_interleave(8, 4)
    )
    burst = still_burst(frames + 0.05 * torch.randn(1, 2, 4, 192, 320, generator=generator(2)), 0.05)
    whole = restore_full_size(careful, burst)
    tiles = restore_full_size(careful, burst, careful.tile_bytes(184, 2))
    assert torch.allclose(tiles, whole, atol=1e-3 * 0.05) and not torch.equal(whole, net(burst))
