"Pairs to learn from: every number makes one pair, the switches do what they say, and a tripod's pairs are its own."

import numpy as np
import pytest
import torch
from PIL import Image

from debir_nb.core import generator
from debir_nb.light.pairs import PairRanges
from debir_nb.scenes.pairs import (
    DrawnPairs,
    Handheld,
    PairCamera,
    PairScenes,
    TripodPairs,
    read_tripod,
    simulated_tripod,
)

SIDE = 40


def texture(seed, size=(90, 110)):
    "Linear light, smooth enough to be looked up between its pixels."
    noise = torch.rand(1, 3, *(n // 5 for n in size), generator=generator(seed))
    up = torch.nn.functional.interpolate(noise, size, mode="bicubic", align_corners=True)
    return up[0].permute(1, 2, 0).clamp(0, 1).numpy()


PHOTOS = {"a": texture(1), "b": texture(2)}


def place(picture):
    "Where light is, rows and columns."
    grey = picture.mean(0).double()
    return torch.stack([(grey.sum(1 - k) * torch.arange(grey.shape[k])).sum() / grey.sum() for k in (0, 1)])


def test_a_pair_is_its_number_whatever_the_batch_and_the_order():
    pairs = DrawnPairs(PairScenes(PHOTOS, SIDE, seed=4, augment=True))
    once, again = pairs(torch.tensor([5, 6])), pairs(torch.tensor([5, 6]))
    assert all(torch.equal(getattr(once, n), getattr(again, n)) for n in ("short", "long", "target"))
    sharp = [pairs.scenes.seen(k)[0] for k in (6, 5)]
    assert torch.equal(sharp[0], pairs.scenes.seen(6)[0]) and not torch.equal(*sharp)
    other = PairScenes(PHOTOS, SIDE, seed=5, augment=True).seen(5)[0]
    assert not torch.equal(sharp[1], other)


def test_photographs_come_in_turn():
    scenes = PairScenes(PHOTOS, SIDE)
    assert [scenes.source(k) for k in range(4)] == ["a", "b", "a", "b"]


@pytest.mark.parametrize("centred", [False, True])
def test_the_long_frame_begins_where_the_short_one_is_or_has_it_in_its_middle(centred):
    "One lamp: its streak begins at the short frame's place, or goes both ways from it."
    lamp = np.full((140, 140, 3), 1e-4, np.float32)
    lamp[68:73, 68:73] = 1.0
    away = []
    for k in range(8):
        hand = Handheld(0.1, 0.0, (60, 60), centred)
        scenes = PairScenes({"lamp": lamp}, 139, hand, seed=k)
        short, long = scenes.seen(0)
        away.append((place(long - 1e-4) - place(short - 1e-4)).norm())
    # a way of about 6 px, seen as half of it
    assert (np.median(away) < 1.0) if centred else (1.5 < np.median(away) < 4.5)


def test_a_global_shutter_does_not_lean():
    stripe = np.zeros((120, 120, 3), np.float32)
    stripe[:, 58:63] = 1.0
    lean = {}
    for readout in (0.0, 0.08):
        scenes = PairScenes({"s": stripe}, 118, Handheld(0.05, readout, (150, 150)), seed=3)
        row = scenes.seen(0)[0].mean(0)
        middle = (row * torch.arange(118)).sum(1) / row.sum(1)
        lean[readout] = (middle[100] - middle[10]).abs().item()
    assert lean[0.08] > 2 > lean[0.0] + 1


def test_an_object_moves_on_its_own():
    still, moving = (
        PairScenes(PHOTOS, SIDE, Handheld(speeds=(20, 20), objects=objects)) for objects in (False, True)
    )
    (short, long), (a, b) = still.seen(0), moving.seen(0)
    assert 0.01 < ((short - a).abs().amax(0) > 0.02).float().mean() < 0.6
    assert ((long - b).abs().amax(0) > 0.02).float().mean() > 0.01


def test_colours_change_places_in_training_only():
    plain, mixed = (PairScenes(PHOTOS, SIDE, augment=augment) for augment in (False, True))
    seen = {tuple(mixed.seen(k)[0].mean((1, 2)).sort().values.tolist()) for k in (0, 2, 4)}
    assert len(seen) == 3
    for k in range(4):
        ours, theirs = plain.seen(k)[0].mean((1, 2)), mixed.seen(k)[0].mean((1, 2))
        assert torch.allclose(ours.sort().values, theirs.sort().values, atol=1e-5)


def test_switches_of_the_ranges_switch_off():
    flat = PairRanges((1.0, 1.0), ((0.15, 0.15),) * 3, ((0.0, 0.0),) * 3, (1e-6, 1e-6))
    sharp = 0.8 * torch.rand(2, 3, 16, 16, generator=generator(0))
    taken = PairCamera(flat).take(sharp, sharp, generator(1))
    assert (taken.long - taken.target).abs().max() < 0.01
    dark = (0.15 * sharp) ** (1 / 2.2)
    assert (taken.short - dark).abs().max() < 0.01


def test_a_curve_ends_at_black_and_white_and_rises():
    light = torch.linspace(0, 1.5, 500)
    for camera in (PairCamera(), PairCamera(gamma=1.8, contrast=0.6)):
        shown = camera.display(light)
        assert shown[0] == 0 and shown[-1] == 1 and (shown.diff() >= 0).all()


def test_grain_keeps_the_mean():
    grey = torch.full((1, 3, 128, 128), 0.3)
    noisy = PairCamera(grain=1.0).noisy(grey, torch.tensor([0.02]), generator(0))
    assert abs(noisy.mean() - 0.3) < 2e-3 and (noisy - 0.3).std() < 0.5 * (0.02 * 0.3) ** 0.5


def test_a_tripod_keeps_the_short_frame_and_the_truth():
    pairs = simulated_tripod(PHOTOS, PairCamera(), 3, seed=2)
    learned = TripodPairs(pairs, SIDE, Handheld(0.1, 0.0, (80, 80)), seed=1)(torch.tensor([0, 1, 2]))
    for k, (short, long) in enumerate(pairs):
        windows = torch.from_numpy(long).unfold(0, SIDE, 1).unfold(1, SIDE, 1)  # rows columns 3 h w
        at = ((windows - learned.target[k]).abs().amax((2, 3, 4)) == 0).nonzero()
        assert len(at) == 1  # a part of the long frame, nothing done to it
        y, x = at[0].tolist()
        assert torch.equal(
            learned.short[k], torch.from_numpy(short[y : y + SIDE, x : x + SIDE]).permute(2, 0, 1)
        )
    assert (learned.long - learned.target).abs().mean() > 0.01


def test_a_folder_of_tripod_pairs_is_read_or_refused(tmp_path):
    save = lambda name, size: Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(tmp_path / name)
    with pytest.raises(ValueError, match="there is no pair"):
        read_tripod(tmp_path)
    for kind in ("short", "long"):
        save(f"desk_{kind}.png", (60, 50))
    assert len(read_tripod(tmp_path)) == 1
    save("lamp_long.png", (60, 50))
    with pytest.raises(ValueError, match="lamp has one exposure only"):
        read_tripod(tmp_path)
    save("lamp_short.png", (50, 60))
    with pytest.raises(ValueError, match="lamp is 60 x 50 px short, 50 x 60 px long"):
        read_tripod(tmp_path)
