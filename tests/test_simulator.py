"The simulator against brute force, finite differences and the authors' own forward pass."

from pathlib import Path

import numpy as np
import pytest
import torch

from debir_nb.core import BURST_START, FRAME_GAP, FRAME_TIME, budget, generator
from debir_nb.light.raw import sample_cfa
from debir_nb.light.sensor import EqualBrightness
from debir_nb.light.simulator import (
    LightInMemory,
    Simulator,
    SummedLight,
    check_exposures,
    collect,
    cumulative,
    mean_radiance,
    timeline,
)

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "simulator_published.npz"
SILENT = Simulator(EqualBrightness(lambda gain: (0 * gain, 0 * gain)))


def random_scene(n_ticks=228, channels=4, size=4, batch=1, seed=0):
    return torch.rand(batch, n_ticks, channels, size, size, dtype=torch.float64, generator=generator(seed))


def brute_force(radiance, start, stop):
    "Overlap of every tick with the exposure, summed: times in ticks, one scene."
    k = torch.arange(len(radiance), dtype=radiance.dtype)
    weight = (torch.minimum(k + 1, stop) - torch.maximum(k, start)).clamp(0)
    return torch.tensordot(weight, radiance, 1) / (stop - start)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_integral_agrees_with_brute_force(n, seed):
    radiance = random_scene(60, seed=seed)
    ends = torch.rand(n, 2, dtype=torch.float64, generator=generator(seed, 1)).mul(60).sort(1).values
    ends[:, 1] = (ends[:, 1] + 0.01).clamp(max=60)
    got = mean_radiance(collect(radiance), ends[None, :, 0] * FRAME_TIME, ends[None, :, 1] * FRAME_TIME)[0]
    want = torch.stack([brute_force(radiance[0], a, b) for a, b in ends])
    assert (got - want).abs().max() < 1e-6


@pytest.mark.skipif(
    not GOLDEN.exists(),
    reason=f"{GOLDEN.name}, the parity case of the published simulator, is not beside the project",
)
def test_forward_parity_with_the_published_simulator():
    case = np.load(GOLDEN)
    packed = sample_cfa(torch.from_numpy(case["radiance"]).double())[None]
    exposures, gap = torch.from_numpy(case["exposures_ticks"]).double(), float(case["gap_ticks"])
    start, stop = timeline(
        exposures * FRAME_TIME, burst_start=float(case["start_tick"]) * FRAME_TIME, frame_gap=gap * FRAME_TIME
    )
    light = collect(packed.expand(len(exposures), -1, -1, -1, -1))
    assert (mean_radiance(light, start, stop) - torch.from_numpy(case["bursts"]).double()).abs().max() < 1e-6


def test_value_is_continuous_across_ticks_and_slope_is_not():
    light, zero = collect(random_scene(40)), torch.zeros(1, 1, dtype=torch.float64)
    at = lambda ticks: mean_radiance(light, zero, zero + ticks * FRAME_TIME)
    for k in range(2, 39):
        assert (at(k + 1e-8) - at(k - 1e-8)).abs().max() < 1e-6
        left, right = at(k) - at(k - 1e-4), at(k + 1e-4) - at(k)
        assert (left - right).abs().max() > 1e-8


def test_an_exposure_reads_only_its_two_ends():
    "Cost cannot grow with exposure length: everything between the ends may as well not be there."
    light = collect(random_scene(228))
    start, stop = torch.tensor([[3.5]]).double() * FRAME_TIME, torch.tensor([[200.25]]).double() * FRAME_TIME
    poisoned = light.cumulative.clone()
    poisoned[:, [k for k in range(229) if k not in (3, 4, 200, 201)]] = torch.nan
    assert torch.equal(
        mean_radiance(LightInMemory(poisoned, light.frame_exposure), start, stop),
        mean_radiance(light, start, stop),
    )


def test_a_light_that_only_knows_its_sums_is_exposed_as_one_in_memory():
    memory, weight = (
        collect(random_scene(40, batch=3)),
        torch.rand(3, 2, 4, dtype=torch.float64, generator=generator(1)),
    )
    k = torch.randint(41, (3, 2, 4), generator=generator(2))
    want = (weight[..., None, None, None] * memory.sums(k.flatten(1)).unflatten(1, (2, 4))).sum(2)
    assert torch.allclose(memory.weigh(k, weight), want) and torch.allclose(
        SummedLight.weigh(memory, k, weight), want
    )


def test_static_scene_is_unchanged_and_has_no_blur_gradient():
    radiance = random_scene(1).expand(-1, 228, -1, -1, -1)
    t = torch.tensor([[8.3, 20.1, 40.7, 50.2]], dtype=torch.float64, requires_grad=True)
    frames = mean_radiance(collect(radiance), *timeline(t * FRAME_TIME))
    assert torch.allclose(frames, radiance[:, :4])
    (grad,) = torch.autograd.grad(frames.square().sum(), t)
    assert grad.abs().max() < 1e-9


def test_closed_form_derivatives():
    radiance = random_scene(100)
    start, stop = (
        torch.tensor([[v * FRAME_TIME]], dtype=torch.float64, requires_grad=True) for v in (11.4, 70.8)
    )
    frames, weight = (
        mean_radiance(collect(radiance), start, stop),
        torch.randn(1, 1, 4, 4, 4, dtype=torch.float64, generator=generator(3)),
    )
    g_start, g_stop = torch.autograd.grad((weight * frames).sum(), (start, stop))
    length = (stop - start).detach()
    assert torch.allclose(g_stop, (weight * (radiance[:, 70:71] - frames)).sum() / length)
    assert torch.allclose(g_start, (weight * (frames - radiance[:, 11:12])).sum() / length)


def test_gradcheck_of_the_whole_burst():
    light, gain = collect(random_scene(228, size=2)), torch.tensor([600.0], dtype=torch.float64)
    t = torch.tensor([[9.3, 22.4, 30.2, 39.93]], dtype=torch.float64, requires_grad=True)
    run = lambda ticks: Simulator().burst(light, ticks * FRAME_TIME, gain, generator(0)).frames
    assert torch.autograd.gradcheck(run, (t,), eps=1e-7, atol=1e-5)


def test_noise_level_report_is_differentiated_too():
    light, gain = collect(random_scene(228, size=8)), torch.tensor([600.0], dtype=torch.float64)
    t = torch.tensor([[9.3, 22.4, 30.2, 39.93]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda ticks: Simulator().burst(light, ticks * FRAME_TIME, gain, generator(0)).noise_std,
        (t,),
        eps=1e-7,
        atol=1e-5,
    )


def test_lengthening_frame_1_moves_all_later_starts_and_its_gain():
    light, gain = collect(random_scene(228)), torch.tensor([600.0], dtype=torch.float64)
    weight = torch.randn(4, 4, 4, dtype=torch.float64, generator=generator(5))
    t = torch.tensor([[9.3, 22.4, 30.2, 39.93]], dtype=torch.float64)
    for frame in range(4):
        for simulator in (SILENT, Simulator()):
            read = lambda ticks, s=simulator, f=frame: (
                weight * s.burst(light, ticks * FRAME_TIME, gain, generator(0)).frames[0, f]
            ).sum()
            ticks = t.clone().requires_grad_()
            (grad,) = torch.autograd.grad(read(ticks), ticks)
            step = 1e-6 * torch.eye(4, dtype=torch.float64)
            difference = torch.stack([(read(t + d) - read(t - d)) / 2e-6 for d in step])
            assert torch.allclose(grad[0], difference, rtol=1e-5, atol=1e-7)
            assert (grad[0, : frame + 1].abs() > 1e-6).all() and (grad[0, frame + 1 :] == 0).all()


@pytest.mark.parametrize("frame_exposure", [1, 4, 8])
def test_footage_blur_is_accounted_for(frame_exposure):
    "Frames that hold a ticks of light, averaged for an exposure of x ticks, hold light from exactly x ticks."
    impulse = torch.zeros(1, 200, 1, 1, 1, dtype=torch.float64)
    impulse[0, 60] = 1.0
    held = torch.zeros(200, dtype=torch.float64)
    for k in range(200):  # frame k averages the light of [k, k + a)
        held[k] = max(0.0, min(k + frame_exposure, 61.0) - max(k, 60.0)) / frame_exposure
    light = collect(held.view(1, 200, 1, 1, 1), frame_exposure * FRAME_TIME)
    seen = lambda start, ticks: mean_radiance(
        light,
        torch.tensor([[start]]).double() * FRAME_TIME,
        torch.tensor([[start + ticks]]).double() * FRAME_TIME,
    ).item()
    assert abs(seen(61.0, 20.0)) < 1e-12 and abs(seen(40.0, 20.0)) < 1e-12 and seen(50.0, 20.0) > 0
    total = sum(seen(float(s), 20.0) for s in range(30, 80)) * 20
    assert abs(total - 20) < 1e-6  # every exposure that includes the flash, summed over its possible starts


def test_noise_of_a_burst_follows_its_model():
    radiance = torch.full((1, 228, 4, 64, 64), 0.4, dtype=torch.float64)
    t = torch.tensor([[16.0, 24, 32, 56]], dtype=torch.float64) * FRAME_TIME
    simulator = Simulator(EqualBrightness(lambda gain: (1e-5 * gain, 1e-9 * gain**2)))
    burst = simulator.burst(collect(radiance), t, torch.tensor([600.0], dtype=torch.float64), generator(1))
    gains = 600 * 16 / (t[0] / FRAME_TIME)
    want = (1e-5 * gains * 0.4 + 1e-9 * gains**2).sqrt()
    assert torch.allclose(burst.frames.std((2, 3, 4))[0], want, rtol=0.02) and torch.allclose(
        burst.noise_std[0], want, rtol=0.02
    )
    assert torch.allclose(burst.frames.mean((2, 3, 4)), torch.tensor(0.4).double(), atol=0.002)


def test_previews_lie_where_equations_9_and_10_put_them():
    ramp = torch.arange(228, dtype=torch.float64).view(1, 228, 1, 1, 1) / 1000  # the radiance tells the time
    previous, preview = SILENT.previews(collect(ramp), torch.ones(1).double(), generator(0))
    middle = lambda start, stop: (start + stop - 1) / 2 / 1000
    assert abs(preview.item() - middle(56, 72)) < 1e-9 and abs(previous.item() - middle(1, 17)) < 1e-9
    assert abs(SILENT.target(collect(ramp)).item() - 0.079) < 1e-9


def test_budget_of_ticks():
    assert [Simulator().ticks(n) for n in (2, 4, 8)] == [150, 228, 384]
    start, stop = timeline(torch.full((1, 4), budget(4) / 4))
    assert abs(stop[0, -1].item() - (BURST_START + budget(4) + 3 * FRAME_GAP)) < 1e-6


def test_same_generator_same_burst_and_batch_does_not_matter():
    light, t = collect(random_scene(228, batch=1).float()), torch.full((1, 4), 20 * FRAME_TIME)
    a, b = (
        Simulator(EqualBrightness(jitter=True)).burst(light, t, torch.tensor([600.0]), generator(0)).frames
        for _ in range(2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(
        a, Simulator(EqualBrightness(jitter=True)).burst(light, t, torch.tensor([600.0]), generator(1)).frames
    )


@pytest.mark.parametrize(
    "ticks, words",
    [
        ([4.0, 8, 8, 8], "below t_min"),
        ([60.0, 60, 60, 60], "over the budget"),
        ([float("nan")] * 4, "not finite"),
    ],
)
def test_impossible_exposures(ticks, words):
    with pytest.raises(ValueError, match=words):
        check_exposures(torch.tensor([ticks]) * FRAME_TIME)


def test_too_short_a_sequence():
    with pytest.raises(ValueError, match="radiance has 100 frames"):
        SILENT.burst(
            collect(random_scene(100)),
            torch.full((1, 4), 30 * FRAME_TIME, dtype=torch.float64),
            torch.ones(1).double(),
            generator(0),
        )
    with pytest.raises(ValueError, match="radiance has 60 frames"):
        SILENT.target(collect(random_scene(60)))


def test_radiance_that_is_not_finite():
    with pytest.raises(ValueError, match="radiance holds 1 values"):
        cumulative(random_scene(20).index_fill(1, torch.tensor([3]), torch.nan)[:, :, :1, :1, :1])


def test_footage_too_slow_for_the_exposure():
    with pytest.raises(ValueError, match="film faster"):
        mean_radiance(
            collect(random_scene(100), 16 * FRAME_TIME),
            torch.zeros(1, 1).double(),
            torch.full((1, 1), 8 * FRAME_TIME).double(),
        )
