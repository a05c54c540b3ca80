"What every restorer promises, what alignment and the merge claim, and sensors that a simulator takes."

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from debir_nb.core import FRAME_TIME, PREVIEW_TIME, generator
from debir_nb.disk import save_weights
from debir_nb.light.degradation import burst_gains, standard_normal
from debir_nb.light.sensor import Burst, still_burst
from debir_nb.light.simulator import Simulator, collect
from debir_nb.restorers import merge
from debir_nb.restorers.alignment import Motion, kriging, mean_of_others, motion
from debir_nb.restorers.black import unclipped
from debir_nb.restorers.by_name import fresh_restorer, load_restorer
from debir_nb.restorers.full_size import (
    SharedAttention,
    assemble,
    fit_tiles,
    restore_full_size,
    restore_tiles,
)
from debir_nb.restorers.merge import Merge, evidence
from debir_nb.restorers.protocol import RestorerNet
from debir_nb.restorers.words import RESTORERS

WORDS = [*RESTORERS, "debir_nb.yours.restorer:Residual"]
ALIGNED = ["kernels", "noise_burstormer"]  # networks that begin with the evidence of the merge


def texture(size=48, key=0):
    "A smooth random picture, (4, size, size), twice as large as it is shown."
    draws = generator(31, key)
    waves = [torch.randn(1, 4, k, k, generator=draws) for k in (4, 8, 16, 32)]
    large = [F.interpolate(w, size=(2 * size, 2 * size), mode="bicubic") / k for k, w in enumerate(waves, 1)]
    return (0.4 + 0.12 * sum(large)[0]).clamp(0.05, 0.95)


def taken(n=4, speed=0.0, noise=0.05, size=48, key=0):
    "A texture that moves by `speed` px a frame, seen at the middle of each frame; and where it begins."
    whole = texture(size, key)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    seen = []
    for time in [0.0, *(i + 0.5 for i in range(n))]:
        at = torch.stack([x + size / 2 - speed * time, y + size / 2], -1) / (2 * size - 1) * 2 - 1
        seen.append(F.grid_sample(whole[None], at[None].float(), "bicubic", align_corners=True)[0])
    truth, clean = seen[0][None], torch.stack(seen[1:])[None]
    noisy = clean + noise * torch.randn(clean.shape, generator=generator(32, key))
    opened = 16 * FRAME_TIME * torch.arange(n)[None]
    return replace(still_burst(noisy, noise), start=opened, stop=opened + 16 * FRAME_TIME), truth


def psnr(a, b, border=6):
    inner = (..., slice(border, -border), slice(border, -border))
    return -10 * (a - b)[inner].square().mean().log10().item()


def make(word, n=4):
    torch.manual_seed(0)
    return fresh_restorer(word, n, 8).eval()


@pytest.mark.parametrize("word", WORDS)
def test_an_untrained_restorer_is_better_than_its_first_frame(word):
    burst, truth = taken()
    with torch.no_grad():
        restored = make(word)(burst)
    assert restored.shape == truth.shape
    assert psnr(restored, truth) > psnr(burst.frames[:, 0], truth) + 5


@pytest.mark.parametrize("word", WORDS)
def test_every_burst_is_restored_as_it_would_be_alone(word):
    both = [taken(key=key)[0] for key in (1, 2)]
    one = Burst(*(torch.cat(parts) for parts in zip(*(burst.tensors() for burst in both))))
    with torch.no_grad():
        together, alone = make(word)(one), [make(word)(burst) for burst in both]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize("word", WORDS)
def test_a_restorer_comes_back_from_its_file(word, tmp_path):
    network, (burst, _) = make(word), taken()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator(5)))
        save_weights(network, tmp_path / "restorer.pt")
        again = load_restorer(tmp_path / "restorer.pt")
        assert type(again) is type(network) and torch.equal(again(burst), network(burst))


class AtRest(RestorerNet):
    "A network on evidence of a burst that is known to be at rest."

    def __init__(self, inner):
        super().__init__()
        self.inner, self.reach, self.tile_bytes = inner, inner.reach, inner.tile_bytes

    def forward(self, burst):
        (b, n), size = burst.frames.shape[:2], burst.frames.shape[-2:]
        still = burst.frames.new_zeros(b, n, 2, *size)
        return self.inner.from_evidence(evidence(burst, truth=Motion(still, still)))


def stirred(word, n=4):
    "As if it had learned something."
    network, draws = make(word, n), generator(6)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draws))
    return network


def spoilt(burst):
    "With samples that are no light: single ones, and a lamp in all frames."
    counts = torch.rand(burst.frames.shape, generator=generator(7)) > 1e-3
    counts[..., 60:70, 100:110] = False
    return replace(burst, frames=torch.where(counts, burst.frames, 1.0), counts=counts)


@pytest.mark.parametrize(
    "word, n, speed, spoil",
    [
        ("merge", 3, 1.5, True),
        ("kernels", 1, 0.0, False),
        ("kernels", 3, 1.5, True),
        ("kernels", 4, 2.5, False),
        ("noise_burstormer", 3, 1.5, False),
        ("unet", 2, 1.5, True),
        ("debir_nb.yours.restorer:Residual", 4, 1.5, False),
    ],
)
@torch.no_grad()
def test_tiles_are_the_whole_picture_to_a_thousandth_of_the_noise_left(word, n, speed, spoil, monkeypatch):
    "Of odd sizes, moving; motion is measured once for all tiles."
    network, burst = stirred(word, n), taken(n, speed, 0.05, 208)[0].piece(slice(0, 203), slice(0, 157))
    burst, shared = spoilt(burst) if spoil else burst, SharedAttention()
    with shared.collect(network):
        whole = network(burst)
    measured = []
    monkeypatch.setattr(merge, "motion", lambda *given: measured.append(1) or motion(*given))
    tiles = fit_tiles(network, burst, network.tile_bytes(136, n))
    with shared.use(network):
        tiled = assemble(restore_tiles(network.pieces(burst), tiles), tiles)
    assert len(tiles) > 1 and len(measured) <= 1
    assert (tiled - whole).abs().max() < 1e-3 * 0.05 / n**0.5


@pytest.mark.parametrize("word", ALIGNED)
@torch.no_grad()
def test_what_is_farther_than_a_network_says_does_not_matter(word):
    network, (burst, _) = AtRest(stirred(word)).eval(), taken(n=2, size=144)
    axis = (torch.arange(144) - 71.5).abs()
    far, shared = torch.maximum(axis[:, None], axis) > network.reach, SharedAttention()
    other = replace(burst, frames=torch.where(far, burst.frames.roll((48, 48), (-2, -1)), burst.frames))
    with shared.collect(network):
        restored = network(burst)
    with shared.use(network):
        change = (network(other) - restored)[..., 70:74, 70:74].abs()
    assert (restored - evidence(burst).merged).abs().max() > 0.02 and change.max() < 2e-5


@pytest.mark.parametrize("word", ["burstormer", *ALIGNED])
def test_no_tensor_of_another_device_comes_in(word, monkeypatch):
    "On the device `meta`, which mixes with no other. It has no values: whoever asks for one is told yes, or 3."
    for name, answer in (("__bool__", True), ("__float__", 3.0), ("item", 3.0)):
        own = getattr(torch.Tensor, name)
        told = lambda x, own=own, answer=answer: answer if x.is_meta else own(x)
        monkeypatch.setattr(torch.Tensor, name, told)
    network, burst = make(word).to("meta"), spoilt(taken(size=203)[0]).each(lambda x: x.to("meta"))
    restored = restore_full_size(network, burst, network.tile_bytes(136, 4))
    assert restored.is_meta and restored.shape == (1, 4, 203, 203)


@pytest.mark.parametrize("word", WORDS)
def test_a_gradient_passes_through_to_the_frames(word):
    burst, truth = taken()
    frames = burst.frames.clone().requires_grad_()
    loss = (make(word)(still_burst(frames, 0.05)) - truth).square().mean()
    (found,) = torch.autograd.grad(loss, frames)
    assert found.isfinite().all() and (found.abs().amax((0, 2, 3, 4)) > 0).all()


@pytest.mark.parametrize("word", WORDS)
def test_a_restorer_refuses_what_it_cannot_restore(word):
    network, (burst, _) = make(word), taken()
    with pytest.raises(ValueError, match="NaN"):
        network(still_burst(burst.frames * torch.nan, 0.05))
    if network.needs_noise:
        with pytest.raises(ValueError, match="without noise"):
            network(still_burst(burst.frames, 0.0))
    with pytest.raises(ValueError, match="4x4"):
        network(still_burst(burst.frames[..., :3], 0.05))
    if 3 not in network.frames_taken:
        with pytest.raises(ValueError, match="3 frames"):
            network(still_burst(burst.frames[:, :3], 0.05))


@pytest.mark.parametrize("speed", [0.0, 0.6, 2.5])
def test_alignment_finds_how_far_a_scene_has_moved_since_the_burst_began(speed):
    burst, _ = taken(speed=speed, noise=0.03)
    found = motion(burst).field[0, :, 0, 12:-12, 12:-12].flatten(1).median(1).values
    assert (found - speed * (torch.arange(4) + 0.5)).abs().max() < 0.3


def test_what_rounding_leaves_of_others_is_no_knowledge():
    trust = 10 ** (16 * torch.rand(64, 4, 32, 32, generator=generator(0)) - 8)
    grey = torch.rand(trust.shape, generator=generator(1))
    mean, others = mean_of_others(grey, trust)
    # sums of more than 1e-5 of the total are known to a hundredth, in single precision
    assert (mean >= -0.02).all() and (mean <= 1.02).all() and (others >= 0).all()
    alone = torch.tensor([5e6, 0.0, 0.0])[None, :, None, None]
    mean, others = mean_of_others(torch.full_like(alone, 0.3), alone)
    assert others[0, 0] == 0 and mean[0, 0] == 0.3  # nobody contradicts it


@pytest.mark.parametrize("shot", [1e-4, 1e-2])
def test_dark_frames_whose_file_knows_no_read_noise_are_numbers(shot):
    dark = 10 ** (-6 + 5 * torch.rand(1, 4, 32, 32, generator=generator(0)))
    restored = unclipped(dark, torch.zeros(1), torch.tensor([shot]))
    assert restored.isfinite().all() and (restored >= 0).all()
    bright = dark > 10 * shot  # where nothing is cut off, nothing changes
    torch.testing.assert_close(restored[bright], dark[bright], rtol=0.01, atol=0)
    assert (restored[~bright] < dark[~bright] + 4 * (shot * dark[~bright]).sqrt()).all()


def test_weights_of_displacements_are_exact_when_motion_is_fast():
    middles = torch.arange(8)[None] * 0.012
    times, anchor = torch.linspace(-0.005, 0.1, 9)[None], torch.tensor([2])
    errors = torch.full((1, 8), 1e-8).index_fill(1, anchor, 1e-12)
    exact = kriging(middles.double(), times.double(), anchor, errors.double())
    torch.testing.assert_close(kriging(middles, times, anchor, errors).double(), exact, atol=1e-3, rtol=0)


def test_the_merge_of_a_moving_scene_is_far_above_its_mean():
    burst, truth = taken(speed=2.0)
    at_rest = psnr(Merge()(taken()[0]), taken()[1])
    # between pixels frames are interpolated, which averages noise, too
    assert psnr(burst.frames.mean(1), truth) + 5 < psnr(Merge()(burst), truth) < at_rest + 1.5


def test_a_frame_that_was_not_taken_has_no_part_in_the_merge():
    burst, _ = taken()
    without = Burst(*(x[:, :3] for x in burst.tensors()))
    left = burst.leave_out(torch.tensor([[True, True, True, False]]))
    assert torch.allclose(Merge()(left), Merge()(without), atol=1e-6)


def test_samples_that_are_no_light_have_no_part_in_the_merge():
    burst, truth = taken(noise=0.02)
    counts = torch.ones_like(burst.frames, dtype=torch.bool)
    counts[:, 1, :, 20:24, 20:24] = False
    spoilt = burst.frames.clone()
    spoilt[:, 1, :, 20:24, 20:24] = 5.0
    parts = burst.tensors()[1:]
    once, twice = (Merge()(Burst(frames, *parts, counts)) for frames in (burst.frames, spoilt))
    assert torch.allclose(once, twice, atol=1e-5)


@dataclass(frozen=True)
class FixedGain:
    "A sensor whose brightness grows with the exposure, that counts photons and clips after the noise."

    full: float = 5e3  # photons at white

    def gains(self, exposures, preview_gain):
        return preview_gain[:, None].expand_as(exposures)

    def __call__(self, radiance, start, stop, gains, generator):
        bright = radiance * ((stop - start) / PREVIEW_TIME)[..., None, None, None]
        shot = torch.full_like(start, 1 / self.full)
        noisy = bright + (bright.clamp(min=1e-6) / self.full).sqrt() * standard_normal(bright, generator)
        return Burst(noisy.clamp(max=1), shot, 1e-6 + 0 * shot, start, stop, noisy < 1)


def test_a_sensor_of_fixed_gain_fits_the_simulator():
    light = collect(texture(16)[None, None].expand(1, 228, -1, -1, -1).double())
    times = (torch.tensor([[8.0, 16, 32, 60]], dtype=torch.float64) * FRAME_TIME).requires_grad_()
    burst = Simulator(FixedGain()).burst(light, times, torch.tensor([600.0]).double(), generator(1))
    mean = burst.frames.mean((2, 3, 4))[0]
    brightness = texture(16).double().mean() * times[0].detach() / PREVIEW_TIME
    assert torch.allclose(mean[:2], brightness[:2], rtol=0.02)
    assert not burst.counts[0, -1].all() and burst.frames.max() <= 1
    (slope,) = torch.autograd.grad(burst.frames[0, 0].mean(), times)
    assert torch.allclose(slope[0, 0] * times[0, 0], mean[0], rtol=0.05) and slope[0, 1:].abs().max() == 0


def test_equal_brightness_takes_the_more_gain_the_shorter_an_exposure_is():
    times, gain = torch.tensor([[8.0, 16, 32, 60]]) * FRAME_TIME, torch.tensor([600.0])
    assert torch.equal(burst_gains(times, gain).argsort(1), torch.tensor([[3, 2, 1, 0]]))
