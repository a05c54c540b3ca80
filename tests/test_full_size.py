"Tiles: they cover a picture exactly, they agree with the whole, and memory limits are kept or refused."

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from debir_nb.core import generator
from debir_nb.light.sensor import still_burst
from debir_nb.restorers import full_size
from debir_nb.restorers.burstormer import Burstormer, ChannelAttention
from debir_nb.restorers.full_size import (
    SharedAttention,
    assemble,
    fit_tiles,
    reach,
    restore_full_size,
    restore_tiles,
    shortest,
    spans,
)


@pytest.fixture(scope="module")
def net():
    "Not trained, but with weights that make every layer matter a little."
    torch.manual_seed(3)
    net = Burstormer(n_frames=2, features=8).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator(5)))
    return net


def burst(height, width, n=2):
    coarse = torch.randn(n, 4, height // 8 + 2, width // 8 + 2, generator=generator(1))
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")
    noise = 0.05 * torch.randn(n, 4, height, width, generator=generator(2))
    return still_burst((0.5 + 0.15 * smooth + noise)[None].clamp(0, 1), 0.05)


@pytest.mark.parametrize(
    "total, tile, overlap",
    [(100, 40, 8), (128, 40, 16), (44, 40, 12), (40, 40, 8), (8, 40, 8), (1000, 64, 28), (52, 40, 16)],
)
def test_spans_cover_a_length_once_and_keep_their_distance_from_the_tiles_borders(total, tile, overlap):
    for length in (tile, shortest(total, tile, overlap)):
        found = spans(total, length, overlap)
        assert [i for s in found for i in range(s.first, s.stop)] == list(range(total))
        for s in found:
            assert 0 <= s.start < s.end <= total and s.end - s.start <= length <= tile and s.start % 8 == 0
            assert s.first - s.start >= overlap or s.start == 0
            assert s.end - s.stop >= overlap or s.end == total


def test_the_sums_of_tiles_are_the_sums_of_the_picture():
    torch.manual_seed(0)
    layer, x = ChannelAttention(8, heads=2), torch.rand(3, 12, 16, 8)
    # looks at one pixel only, so that no border matters
    layer.qk_dwconv.weight.data[..., [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    shared = SharedAttention()
    holder = torch.nn.Sequential(layer)
    with shared.collect(holder):
        for part in x.split(4, 2):
            holder(part)
    torch.testing.assert_close(shared.sums[layer], layer.gram(x))
    with shared.use(holder):
        torch.testing.assert_close(holder(x), layer(x))
    assert "gram" not in vars(layer)


@pytest.mark.parametrize("height, width", [(152, 92), (96, 204)])
@torch.no_grad()
def test_tiles_that_share_their_sums_are_the_whole_picture(net, height, width):
    taken = burst(height, width)
    overlap, shared = reach(net, burst(96, 96)), SharedAttention()
    tiles = fit_tiles(net, taken, memory=net.tile_bytes(max(64, 2 * overlap + 8), 2))
    assert len(tiles) > 1 and all(y.end - y.start < height or x.end - x.start < width for y, x in tiles)
    with shared.collect(net):
        whole = net(taken)
    with shared.use(net):
        assert (assemble(restore_tiles(net.pieces(taken), tiles), tiles) - whole).abs().max() < 1e-4


@torch.no_grad()
def test_odd_sizes_are_padded_and_cropped_and_sums_of_some_tiles_are_close_to_the_pictures(net):
    taken = burst(150, 93)
    tiles, whole = restore_full_size(net, taken, memory=net.tile_bytes(88, 2)), net(taken)
    assert (
        tiles.shape == whole.shape
        and tiles.isfinite().all()
        and (tiles - whole).abs().max() < 1e-2 * whole.abs().max()
    )


class Bar:
    "What a progress bar is told."

    def __init__(self, **words):
        self.total, self.n = words.get("total"), 0
        Bar.shown.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        pass

    def reset(self, total):
        self.total = total

    def update(self):
        self.n += 1


def test_one_progress_bar_counts_the_tiles_of_both_passes_and_stands_before_the_first(net, monkeypatch):
    Bar.shown, began = [], []
    monkeypatch.setattr(full_size, "tqdm", Bar)
    monkeypatch.setattr(full_size, "reach", lambda *arguments: began.append(len(Bar.shown)) or 24)
    restore_full_size(net, burst(152, 92), memory=net.tile_bytes(64, 2))
    (bar,) = Bar.shown
    tiles = fit_tiles(net, burst(152, 92), memory=net.tile_bytes(64, 2))
    assert began[0] == 1 and bar.n == bar.total == len(tiles) + min(9, len(tiles))


@torch.no_grad()
def test_a_picture_that_fits_is_restored_at_once(net):
    taken = burst(64, 72)
    assert torch.equal(restore_full_size(net, taken, memory=1e9), net(taken))


@torch.no_grad()
def test_what_is_farther_than_the_reach_does_not_matter(net):
    taken = burst(128, 128)
    r = reach(net, taken, tolerance=1e-4)
    assert 8 <= r < 64 and reach(net, taken, tolerance=1e-3) <= r
    shared, other = SharedAttention(), taken.frames.clone()
    other[..., : 64 - r - 1, :] = 0.5
    with shared.collect(net):
        net(taken)
    with shared.use(net):
        assert (net(still_burst(other, 0.05)) - net(taken))[..., 63:65, 63:65].abs().max() <= 2e-4


MEASURE = """
import resource, sys, psutil, torch
from debir_nb.restorers.burstormer import Burstormer
from debir_nb.light.sensor import still_burst
torch.set_num_threads(2)
net, side = Burstormer(n_frames=4, features=16).eval(), int(sys.argv[1])
with torch.no_grad():
    net(still_burst(torch.rand(1, 4, 4, 64, 64), 1.0))
    burst = still_burst(torch.rand(1, 4, 4, side, side), 1.0)
    before = psutil.Process().memory_info().rss
    net(burst)
print((1024*resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)/net.tile_bytes(side, 4))
"""


def test_a_tile_takes_the_memory_it_is_said_to_take(side=320):
    """Within a factor that leaves room for what an allocator does; the process's peak must exceed what
    importing took.
    """
    ratio = float(
        subprocess.run(
            [sys.executable, "-c", MEASURE, str(side)], capture_output=True, text=True, check=True
        ).stdout
    )
    assert 0.3 < ratio < 1.2


def test_too_little_memory_is_refused_with_what_is_needed(net, monkeypatch):
    taken = burst(160, 160)
    with pytest.raises(ValueError, match="memory is 0.000 GB, which is a tile of .* px: give at least"):
        restore_full_size(net, taken, memory=1e4)
    monkeypatch.setattr(full_size, "reach", lambda *arguments: 40)
    with pytest.raises(ValueError, match="the network looks .* px far: give at least"):
        restore_full_size(net, taken, memory=net.tile_bytes(64, 2))
    with pytest.raises(ValueError, match="burst holds 2 bursts"):
        restore_full_size(net, taken.each(lambda x: x.expand(2, *x.shape[1:])))
