"""Hot and dead samples of a sensor: what is found of a known truth, and what is wrongly taken for one."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from debir_nb.core import generator
from debir_nb.light.sensor import still_burst
from debir_nb.restorers.defects import defects, excess, without_defects

STD = 0.01


def scene(blur=0.6, side=96, seed=0):
    "Random discs in the three colours of a mosaic, blurred as a lens does, packed."
    g = generator(seed)
    y, x = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    rgb = torch.full((3, side, side), 0.2)
    for cy, cx, r, *colour in torch.rand(60, 6, generator=g).tolist():
        inside = (y - cy * side) ** 2 + (x - cx * side) ** 2 < (3 + 15 * r) ** 2
        rgb = torch.where(inside, 0.05 + 0.4 * torch.tensor(colour)[:, None, None], rgb)
    line = torch.exp(-(torch.arange(-3.0, 4) ** 2) / (2 * blur**2))
    kernel = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 7, 7)
    rgb = F.conv2d(F.pad(rgb[None], (3, 3, 3, 3), mode="replicate"), kernel, groups=3)
    planes = F.pixel_unshuffle(rgb, 2).unflatten(1, (3, 4))[0]
    return torch.stack([planes[0, 0], planes[1, 1], planes[1, 2], planes[2, 3]])[None]


def burst(light, seed=1):
    "Four frames at rest."
    noise = STD * torch.randn(len(light), 4, *light.shape[1:], generator=generator(seed))
    return still_burst(light[:, None] + noise, STD)


def somewhere(light, share, seed=2):
    return torch.rand(light.shape, generator=generator(seed)) < share


@pytest.mark.parametrize("height", [0.2, 0.5, 0.9])
def test_hot_samples_among_edges_are_found_and_little_else(height):
    light = scene()
    hot = somewhere(light, 0.004)
    found = defects(burst(light + height * hot))
    assert (found & hot).sum() >= 0.8 * hot.sum() and (found & ~hot).sum() <= 2


def test_sound_scenes_keep_their_samples():
    light = torch.cat([scene(seed=k) for k in range(3)])
    assert defects(burst(light)).sum() <= 2
    moved = burst(light)
    frames = torch.stack([moved.frames[:, k].roll(k, -1) for k in range(4)], 1)
    assert defects(dataclasses.replace(moved, frames=frames)).sum() <= 2


@pytest.mark.parametrize("seconds, share", [(0.01, 3e-4), (2.0, 3e-4), (0.01, 4e-3)])
def test_a_spark_in_daylight_is_no_defect(seconds, share):
    "2000 electrons more than around: what no photosite leaks in 1/100 s, unless the sensor is broken."
    light = (
        F.interpolate(torch.rand(1, 4, 4, 4, generator=generator(8)), size=64, mode="bilinear") * 0.3 + 0.2
    )
    sparks = somewhere(light, share)
    taken = still_burst(
        light[:, None] + 0.2 * sparks + 0.002 * torch.randn(1, 2, 4, 64, 64, generator=generator(9)), 0.002
    )
    start, shot = torch.zeros(1, 2), torch.full((1, 2), 1e-4)
    taken = dataclasses.replace(taken, shot=shot, start=start, stop=start + seconds)
    found = (defects(taken) & sparks).sum() / sparks.sum()
    assert found == 0 if (seconds, share) == (0.01, 3e-4) else found > 0.8


def test_dead_samples_of_a_bright_surface_are_found():
    light = (
        F.interpolate(torch.rand(1, 4, 4, 4, generator=generator(3)), size=48, mode="bilinear") * 0.2 + 0.3
    )
    dead = somewhere(light, 0.002)
    found = defects(burst(light * ~dead))
    assert (found & dead).sum() >= 0.9 * dead.sum() and not (found & ~dead).any()


def test_two_hot_samples_that_touch_each_other_are_found():
    mosaic, at = torch.full((64, 64), 0.2), torch.arange(6, 60, 9)
    mosaic[at, at] = mosaic[at, at + 1] = 0.7
    mosaic[at, 63 - at] = mosaic[at + 1, 64 - at] = 0.7
    light = F.pixel_unshuffle(mosaic[None, None], 2)
    assert (defects(burst(light)) == (light > 0.5)).all()


@pytest.mark.parametrize("tint", [(1.0, 1.0, 1.0, 1.0), (0.5, 1.0, 1.0, 0.6)])
def test_points_of_light_stay_wherever_they_fall(tint):
    y, x = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    mosaic = torch.full((160, 160), 0.05)
    for k, (top, left) in enumerate(torch.cartesian_prod(torch.arange(10), torch.arange(10)).tolist()):
        cy, cx = 8 + 15.0 * top + k % 7 / 6, 8 + 15.0 * left + k % 11 / 10
        mosaic += 0.6 * torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 0.5**2))
    light = F.pixel_unshuffle(mosaic[None, None], 2) * torch.tensor(tint)[:, None, None]
    assert defects(burst(light)).sum() <= 3


def test_excess_is_what_was_added_where_surroundings_are_alike():
    mosaic = torch.full((1, 1, 12, 12), 0.5)
    mosaic[..., 6, 5] += 0.3
    e, t = excess(mosaic, torch.full_like(mosaic, 1e-4), 0)
    assert e[0, 0, 6, 5].item() == pytest.approx(0.3, abs=1e-6)
    # eight equal differences, each with twice the standard deviation of two samples
    assert t[0, 0, 6, 5].item() == pytest.approx(0.3 * 8**0.5 / (2 * 2**0.5 * 0.01), rel=1e-4)


def test_what_is_no_light_says_nothing():
    light = scene()
    plain = burst(light)
    white = somewhere(light, 0.004)
    counts = ~white[:, None].expand_as(plain.frames)
    spoilt = dataclasses.replace(plain, frames=plain.frames + 0.5 * ~counts, counts=counts)
    assert not (defects(spoilt) & white).any()
    assert not (without_defects(spoilt).counts & ~counts).any()
