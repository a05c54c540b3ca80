"""Flow and motion magnitude against known displacements, and their answers to bad input."""

import math

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from debir_nb.light.degradation import add_noise, iso_noise
from debir_nb.light.motion import (
    dis_flow,
    gaussian_blur,
    half_size,
    measured_brightness,
    motion_magnitude,
    raft_flow,
)
from debir_nb.light.raw import CameraColour, sample_cfa


def identity_colour(b):
    ones = torch.ones(b)
    return CameraColour(torch.eye(3).expand(b, 3, 3), ones, ones, ones)


def views(displacement, size=96, angle=0.0, name="astronaut"):
    """Two (1, 3, size, size) cuts of a photograph; its content moves by `displacement` px and turns by
    `angle` radians from one to the other.
    """
    photo = getattr(data, name)().astype(np.float32) / 255
    start, q = np.array([230.0, 150.0]), np.arange(size) - (size - 1) / 2
    x = np.stack(np.meshgrid(q, q), -1)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    def cut(p):
        cut_out = cv2.remap(photo, *(p + start).astype(np.float32).transpose(2, 0, 1), cv2.INTER_CUBIC)
        return torch.from_numpy(cut_out).permute(2, 0, 1)[None].clamp(0, 1)

    true = torch.from_numpy(x @ turn.T + displacement - x).permute(2, 0, 1)[None].float()
    return cut(x), cut((x - displacement) @ turn), true


@pytest.mark.parametrize("displacement", [(0.25, 0.0), (-1.5, 0.75), (3.3, -6.1), (10.0, 2.5)])
def test_flow_finds_a_translation_and_its_sign(displacement):
    a, b, true = views(displacement)
    assert (dis_flow(a, b) - true).norm(dim=1)[:, 12:-12, 12:-12].median() < 0.1


@pytest.mark.parametrize("angle", [-0.04, 0.02])
def test_flow_finds_a_rotation(angle):
    a, b, true = views((0.0, 0.0), angle=angle)
    error = (dis_flow(a, b) - true).norm(dim=1)[:, 8:-8, 8:-8]
    assert error.median() < 0.2 * true.norm(dim=1).median()


def test_flow_of_a_batch_is_the_flow_of_each():
    a1, b1, _ = views((2.0, 1.0))
    a2, b2, _ = views((-3.0, 0.5), name="coffee")
    both = dis_flow(torch.cat([a1, a2]).double(), torch.cat([b1, b2]).double())
    assert both.dtype == torch.float64 and both.shape == (2, 2, 96, 96)
    assert torch.allclose(both.float(), torch.cat([dis_flow(a1, b1), dis_flow(a2, b2)]))


def test_magnitude_of_clean_previews_is_the_packed_displacement():
    for d in ((0.0, 0.0), (3.0, 4.0), (6.0, -8.0)):
        a, b, _ = views(d, size=192)
        m = motion_magnitude(sample_cfa(a**2.2), sample_cfa(b**2.2), identity_colour(1))
        assert m.item() == pytest.approx(math.hypot(*d) / 2, rel=0.15, abs=0.05)


def test_magnitude_rises_with_motion_under_the_strongest_noise():
    shot, read = iso_noise(torch.full((1, 2), 1024.0))

    def measured(d, seed):
        a, b, _ = views((d, 0.0), size=128)
        clean = 0.6 * torch.stack([sample_cfa(a**2.2), sample_cfa(b**2.2)], 1)
        noisy = add_noise(clean, shot, read, generator=torch.Generator().manual_seed(seed)).clamp(0, 1)
        return motion_magnitude(noisy[:, 1], noisy[:, 0], identity_colour(1)).item()

    means = [np.mean([measured(d, seed) for seed in range(4)]) for d in (0.0, 4.0, 8.0, 16.0)]
    assert means[0] < 1.5 and all(np.diff(means) > 0.5)


def test_unfiltered_magnitude_is_the_plain_mean_of_the_flow():
    a, b, _ = views((3.0, 1.0), size=128)
    packed = sample_cfa(a), sample_cfa(b)
    plain = dis_flow(*(half_size(x, identity_colour(1)) for x in packed)).norm(dim=1).mean((1, 2))
    assert torch.allclose(motion_magnitude(*packed, identity_colour(1), sigma=0.0), plain)


@pytest.mark.parametrize("ev", [-3, -1, 1, 3])
def test_a_scene_at_rest_is_at_rest_however_bright_a_preview_is(ev):
    "One preview gets more or less light than the other, and saturates where there is too much."
    a, _, _ = views((0.0, 0.0), size=128)
    light = sample_cfa(a**2.2) * 0.6
    preview, previous = (light * 2.0**ev).clamp(0, 1), light
    plain = motion_magnitude(preview, previous, identity_colour(1)).item()
    told = motion_magnitude(preview, previous, identity_colour(1), brightness=torch.tensor([2.0**ev])).item()
    assert told < 0.1 < plain


def test_motion_is_the_same_with_and_without_a_change_of_brightness():
    a, b, _ = views((6.0, -8.0), size=192)
    a, b = (sample_cfa(x**2.2) for x in (a, b))
    half = motion_magnitude(a / 2, b, identity_colour(1), brightness=torch.tensor([0.5])).item()
    assert half == pytest.approx(5, rel=0.15)
    same = motion_magnitude(a, b, identity_colour(1), brightness=torch.ones(1))
    assert torch.equal(same, motion_magnitude(a, b, identity_colour(1)))


def test_brightness_is_measured_where_nobody_tells():
    a, b, _ = views((3.0, 0.0), size=128)
    a, b = (sample_cfa(x**2.2) for x in (a, b))
    assert measured_brightness(a / 4, b).item() == pytest.approx(0.25, rel=0.1)
    dark = torch.zeros(1, 4, 16, 16)
    assert measured_brightness(dark, dark).item() == 1
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="brightness is"):
            motion_magnitude(a, b, identity_colour(1), brightness=torch.tensor([bad]))


def test_any_flow_may_be_used_and_is_rescaled():
    def constant(a, b):
        return torch.ones(len(a), 2, *a.shape[-2:])

    packed = torch.rand(2, 4, 32, 40)
    assert motion_magnitude(packed, packed, identity_colour(2), flow=constant).tolist() == pytest.approx(
        2 * [2 * math.sqrt(2)]
    )
    assert motion_magnitude(
        packed[..., :24, :24], packed[..., :24, :24], identity_colour(2), flow=constant
    ).tolist() == pytest.approx(2 * [math.sqrt(2)])


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (16, 64), (33, 47)])
def test_small_and_odd_sizes_work(size):
    packed = torch.rand(1, 4, *size, generator=torch.Generator().manual_seed(0))
    assert motion_magnitude(packed, packed, identity_colour(1)).item() == pytest.approx(0, abs=1e-3)


def test_blur_equals_opencv():
    image = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(1))
    theirs = np.stack(
        [
            cv2.GaussianBlur(x.permute(1, 2, 0).numpy(), (9, 9), 1.5, borderType=cv2.BORDER_REPLICATE)
            for x in image
        ]
    )
    assert np.abs(gaussian_blur(image, 1.5).permute(0, 2, 3, 1).numpy() - theirs).max() < 1e-5
    with pytest.raises(ValueError, match="sigma is -1"):
        gaussian_blur(image, -1.0)


def test_raft_finds_a_translation_or_says_what_is_missing():
    a, b, true = views((3.0, -2.0))
    try:
        flow = raft_flow(a, b)
    except ImportError as e:
        assert "debir_nb[raft]" in str(e)
        pytest.skip("torchvision (extra raft) is not installed: RAFT is not checked")
    except OSError:
        pytest.skip("the weights of RAFT cannot be downloaded here: RAFT is not checked")
    assert flow.shape == true.shape and (flow - true).norm(dim=1)[:, 8:-8, 8:-8].median() < 0.2


@pytest.mark.parametrize("flow", [dis_flow, raft_flow])
def test_bad_pictures_are_refused(flow):
    good, small = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 15, 32)
    with pytest.raises(ValueError, match="srgb_b"):
        flow(good, torch.rand(1, 3, 32, 34))
    with pytest.raises(ValueError, match="srgb_a is 15x32 px.*at least 16x16"):
        flow(small, small)
    with pytest.raises(ValueError, match="srgb_b holds 3072 values"):
        flow(good, good * float("nan"))


def test_bad_previews_are_refused():
    good, colour = torch.rand(2, 4, 32, 32), identity_colour(2)
    with pytest.raises(ValueError, match="preview has shape .* and previous"):
        motion_magnitude(good, good[:1], colour)
    with pytest.raises(ValueError, match="preview is 8x32 px"):
        motion_magnitude(good[..., :8, :], good[..., :8, :], colour)
    with pytest.raises(ValueError, match="previous holds"):
        motion_magnitude(good, good * float("inf"), colour)
