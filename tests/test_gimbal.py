"Digital Gimbal: parity with the authors' equations and code, laws that must hold, a real camera's frames."

import math
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from debir_nb.core import FRAME_TIME, generator
from debir_nb.disk import load_weights, save_weights
from debir_nb.light.dither import expected_rounding, round_through
from debir_nb.light.linear_light import linear_light
from debir_nb.light.photons import FLIR, KAYA, PRNU, PhotonCamera, PhotonSensor
from debir_nb.light.relaxed_poisson import (
    poisson_counts,
    relaxed_counts,
    relaxed_poisson,
    softened,
    table_of,
)
from debir_nb.light.sensor import still_burst
from debir_nb.light.simulator import collect
from debir_nb.light.straight_through import simulator_with
from debir_nb.policies.gimbal_exposure import GimbalCamera, GimbalShares, Shutter
from debir_nb.restorers.apply_kernels import each_weighed, weighed
from debir_nb.restorers.flow import BurstFlow, FlowKPN, merge_of_aligned, pyramid
from debir_nb.restorers.full_size import assemble, fit_tiles, restore_tiles
from debir_nb.restorers.kernel_prediction import KPN, KernelPrediction
from debir_nb.training.gimbal_loss import basic_loss, gamma_curve, sobel
from debir_nb.weights.published_gimbal import load_published_gimbal

SHARED = Path(__file__).resolve().parents[2] / "shared"
PAIRS = SHARED / "data" / "pairs"
needs_golden = pytest.mark.skipif(
    not (SHARED / "golden" / "gimbal_gengs.npz").exists(),
    reason="shared/golden is missing: no parity is checked",
)
needs_pairs = pytest.mark.skipif(
    not (PAIRS / "flea3_dark").exists(), reason="shared/data/pairs is missing: no real frames are checked"
)


def golden(name):
    "A parity case: its arrays as tensors."
    with np.load(SHARED / "golden" / f"gimbal_{name}.npz") as case:
        return {key: torch.from_numpy(case[key]) for key in case.files if case[key].dtype.kind != "U"}


# Light becomes numbers


@needs_golden
def test_constants_and_response_are_those_of_the_published_configuration():
    case = golden("photon_to_dn")
    assert math.isclose(KAYA.per_irradiance, case["i2e"], rel_tol=1e-9)
    torch.testing.assert_close(KAYA.respond(case["response_e"]), case["response_dn"], rtol=1e-12, atol=1e-10)
    for sigma, mean, slope in zip(
        case["dither_sigma"][1:], case["dither_mean"][1:], case["dither_slope"][1:]
    ):
        found = expected_rounding(case["dither_x"], sigma.item())
        torch.testing.assert_close(found[0], mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found[1], slope, rtol=1e-10, atol=1e-12)


@needs_golden
def test_the_numbers_of_the_camera_have_the_exact_mean_and_variance():
    "Where its number changes is found by bisection; the rest is a sum over counts."
    case, dark = golden("photon_to_dn"), KAYA.dark * 1e-3
    number = lambda charge: (KAYA.convert(KAYA.respond(charge)) * KAYA.levels).round()
    low, high = torch.full((830,), -500.0).double(), torch.full((830,), 60_000.0).double()
    for _ in range(60):
        middle = (low + high) / 2
        above = number(middle) >= torch.arange(1, 831)
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    k = torch.arange(1, 831).double()
    for i, mean in enumerate(case["mean_electrons"]):
        rate = mean + dark
        spread = 12 * rate.sqrt() + 20
        counts = torch.arange((rate - spread).clamp(min=0).floor(), (rate + spread).ceil()).double()
        share = (counts * rate.log() - rate - (counts + 1).lgamma()).exp()
        at_least = share @ torch.special.ndtr((counts[:, None] - dark - high) / KAYA.read)
        found = torch.stack(
            [at_least.sum(), ((2 * k - 1) * at_least).sum() - at_least.sum() ** 2, 1 - at_least[0]]
        )
        truth = torch.stack([case["dn_mean"][i], case["dn_var"][i], case["p_zero"][i]])
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("counts", [poisson_counts, relaxed_counts])
def test_a_sensor_has_the_noise_that_it_states(counts):
    times = torch.tensor([[0.5e-3, 1e-3, 3e-3]])
    stop, grey = times.cumsum(1), torch.tensor([0.05, 0.3, 0.6, 0.9]).view(1, 1, 4, 1, 1)
    cold = counts if counts is poisson_counts else lambda rate, draws: relaxed_counts(rate, draws, tau=0.1)
    sensor = PhotonSensor(camera=replace(KAYA, pedestal=20.0), counts=cold)
    burst = sensor(grey.expand(1, 3, 4, 50, 50), stop - times, stop, 3e-3 / times, generator(1))
    stated = burst.read[..., None] + burst.shot[..., None] * grey[:, :, :, 0, 0]
    assert (burst.frames.var((-2, -1)) / stated - 1).abs().max() < 0.15
    assert (burst.frames.mean((-2, -1)) - grey[..., 0, 0]).abs().max() < 4 * (stated.max() / 50**2) ** 0.5


def test_pixels_differ_in_response_the_same_way_in_all_frames_of_a_burst():
    camera = replace(KAYA, prnu=PRNU, read=1e-3, gain=4.0, bits=16)
    exact = lambda rate, draws: rate
    light = torch.full((2, 3, 1, 60, 60), 9000.0)
    frames = camera.expose(light, torch.full((2, 3), 1e-3), generator(2), exact)
    pattern = frames / frames.mean((-2, -1), keepdim=True) - 1
    assert (pattern[:, 0] - pattern[:, 2]).abs().max() < 1e-4
    assert (pattern[0, 0] - pattern[1, 0]).abs().max() > 0.01
    assert abs(pattern.std() / (PRNU / 12**0.5) - 1) < 0.05


def test_the_word_photons_makes_a_sensor_with_gradients():
    simulator = simulator_with(sensor="photons")
    light = collect(0.3 + 0.2 * torch.rand(2, 228, 4, 8, 8, generator=generator(3)))
    times = (torch.tensor([[10.0, 20, 30, 40]]).expand(2, -1) * FRAME_TIME).requires_grad_()
    burst = simulator.burst(light, times, torch.tensor([2.0, 6.0]), generator(4))
    (slope,) = torch.autograd.grad(burst.frames.square().sum(), times)
    assert slope.isfinite().all() and (slope != 0).all() and (burst.noise_std.diff(dim=1) < 0).all()


@needs_pairs
def test_dark_frames_of_a_real_camera_are_noise_that_is_cut_off_at_black():
    "One number, the share of zeros, says how much noise there is; the model then says the rest."
    read = lambda t, i: cv2.imread(str(PAIRS / "flea3_dark" / f"dark_{t}ms_{i}.tif"), cv2.IMREAD_UNCHANGED)
    hot = []
    for t in (25, 50, 100, 250, 500, 2000, 3916):
        pair = np.stack([read(t, i) for i in range(2)]).astype(float)
        hot.append(int((pair.min(0) > 20).sum()))
        quiet = pair[:, pair.max(0) < 5]  # without warm pixels
        sigma = 0.5 / -torch.special.ndtri(torch.tensor(1 - (quiet == 0).mean())).item()
        camera = PhotonCamera(3.45e-6, 0.5, 500e-9, 0.0, sigma, 255.0, 1.0, 8)
        frames = camera.expose(torch.zeros(1, 1, 1, 1000, 1000), torch.full((1, 1), t / 1e3), generator(5, t))
        assert abs(frames.mean() * 255 / quiet.mean() - 1) < 0.2  # of 500 samples that are not 0
        assert abs((quiet[0] == 0).mean() - (quiet[1] == 0).mean()) < 5e-4
    assert hot[0] == 0 and hot == sorted(hot) and hot[-1] > 5  # dark current grows in a few pixels


@needs_pairs
def test_the_light_of_a_real_camera_grows_with_its_exposure_until_it_saturates():
    read = lambda t: cv2.imread(str(PAIRS / f"flea3_disks_500nm_{t}ms.tif"), cv2.IMREAD_UNCHANGED).astype(
        float
    )
    camera = PhotonCamera(3.45e-6, 0.5, 500e-9, 0.0, 0.2, 255.0, 1.0, 8)
    first = read(100)
    lit = first > 40  # of 255
    for t in (25, 50, 250, 500):
        mean = torch.from_numpy(first[lit]) * t / 100
        said = camera.convert(camera.respond(mean)).double() * 255
        below = (mean < 0.8 * 255).numpy()
        if below.any():
            assert abs(read(t)[lit][below].mean() / said.numpy()[below].mean() - 1) < 0.05
        assert (read(t)[lit][~below] > 0.75 * 255).mean() > 0.97 if (~below).any() else t < 250


# Counting with a gradient


@needs_golden
def test_relaxed_samples_and_their_derivatives_are_the_closed_form():
    case = golden("gengs")
    for i, rate in enumerate(case["rates"]):
        for j, tau in enumerate(case["taus"]):
            sample, slope = softened(rate.expand(6), tau.item(), case["gumbel"])
            torch.testing.assert_close(sample, case["value"][i, j], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(slope, case["derivative"][i, j], rtol=1e-5, atol=1e-9)
        cold, _ = softened(rate.expand(6), 1e-3, case["gumbel"])
        assert torch.equal(cold.round().long(), case["argmax"][i])
    sample, slope = softened(case["short_rate"].expand(6), 0.5, case["gumbel"][:, :12])
    torch.testing.assert_close(sample, case["short_value"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(slope, case["short_derivative"], rtol=1e-10, atol=1e-10)


@needs_golden
def test_the_populations_of_relaxed_samples():
    """Twenty figures within 2 %: all means, and the gradients of the mean at tau = 1. The others within three
    standard errors, for the recorded ones are of 4000 draws; ours are of 12 000.
    """
    case = golden("gengs")
    for i, rate in enumerate(case["rates"]):
        for j, tau in enumerate(case["taus"]):
            leaf = rate.expand(12_000).clone().requires_grad_()
            sample = relaxed_poisson(leaf, tau.item(), generator(8, i, j))
            (slope,) = torch.autograd.grad(sample.sum(), leaf)
            sample = sample.detach()
            found = sample.mean(), sample.var(), slope.mean(), (2 * sample * slope).mean()
            error = (sample - sample.mean()).square().std() / 4000**0.5
            known = [case[f"pop_{key}"][i, j] for key in ("mean", "var", "grad", "grad_sq")]
            errors = [
                case["pop_mean_se"][i, j],
                error,
                case["pop_grad_se"][i, j],
                case["pop_grad_sq_se"][i, j],
            ]
            for k, (ours, theirs, se) in enumerate(zip(found, known, errors)):
                exact = k == 0 or (k == 2 and tau == 1)
                most = 0.02 * theirs if exact else max(0.02 * theirs, 3 * (4 / 3) ** 0.5 * se)
                assert (ours - theirs).abs() < most, (rate, tau, k)


def test_bins_that_are_left_out_weigh_nothing():
    for rate in torch.tensor([0.3, 7.0, 90.0, 900.0], dtype=torch.float64):
        noise = -torch.empty(50, 1200, dtype=torch.float64).exponential_(generator=generator(9)).log()
        first, bins = table_of(rate.item(), rate.item())
        for tau in (1.0, 0.1):
            whole = softened(rate.expand(50), tau, noise)
            some = softened(rate.expand(50), tau, noise[:, first : first + bins], first)
            for a, b in zip(whole, some):
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_a_count_of_nothing_is_nothing_and_has_a_finite_gradient():
    rate = torch.zeros(1, 1, 4, 4, requires_grad=True)
    for counts in (poisson_counts, relaxed_counts):
        drawn = counts(rate, generator(10))
        assert drawn.abs().max() < 1e-3
        assert torch.autograd.grad(drawn.sum(), rate)[0].isfinite().all()


def test_rounding_goes_straight_through_where_noise_dithers_it():
    x = torch.tensor([0.2, 1.5, -3.7], requires_grad=True)
    (slope,) = torch.autograd.grad(round_through(x).square().sum(), x)
    assert torch.equal(slope, 2 * x.detach().round())


# Exposures


@needs_golden
def test_shares_times_light_and_gradient_are_those_of_the_equations():
    case, shutter = golden("exposure"), Shutter()
    leaf = case["delta"].clone().requires_grad_()
    times = shutter.exposures(leaf, 3)
    torch.testing.assert_close(times.detach(), case["exposures"], rtol=1e-9, atol=0)
    start, stop = shutter.timeline(times)
    torch.testing.assert_close(torch.stack([start, stop], 1).detach(), case["events"], rtol=1e-9, atol=1e-12)
    light = linear_light(case["irradiance"].view(1, 61, 6, 1, 1), 3e-3 / 60)
    found = (light.mean(start[None], stop[None]) * (stop - start).view(1, 3, 1, 1, 1))[0, :, :, 0, 0]
    torch.testing.assert_close(found.detach(), case["light"], rtol=1e-9, atol=1e-14)
    (slope,) = torch.autograd.grad((found * case["readout_weights"]).sum(), leaf)
    torch.testing.assert_close(slope, case["grad_delta"], rtol=1e-5, atol=1e-9)
    blank = shutter.exposures(case["blank_delta"], 3)
    torch.testing.assert_close(blank, case["blank_exposures"], rtol=1e-9, atol=0)
    least = Shutter(5e-3, 400e-6, 0.5e-3).exposures(case["min_delta"], 3)
    torch.testing.assert_close(least, case["min_exposures"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("n, idle", [(1, False), (1, True), (2, True), (5, False), (7, True)])
def test_a_burst_of_any_length_fits_into_its_time_and_stays_in_the_middle(n, idle):
    shutter, shares = Shutter(5e-3, 400e-6, 1e-4), torch.randn(n + idle, generator=generator(11, n)).double()
    times = shutter.exposures(shares, n)
    start, stop = shutter.timeline(times)
    assert (times >= 1e-4).all() and (start[1:] - stop[:-1]).allclose(torch.tensor(4e-4).double())
    before, after = start[0], 5e-3 - (stop[-1] + 4e-4)
    assert torch.isclose(before, after, atol=1e-12) and before >= -1e-12 and (before > 1e-5) == idle


def test_uniform_shares_do_not_learn_and_learned_ones_reach_the_light():
    assert not list(p for p in GimbalShares(3, learned=False).parameters() if p.requires_grad)
    shares, camera = GimbalShares(3, idle=True), GimbalCamera()
    film = torch.rand(1, 61, 1, 6, 6, generator=generator(12))
    loss = camera.burst(linear_light(film, 3e-3 / 60), shares(), generator(13)).frames.square().mean()
    (slope,) = torch.autograd.grad(loss, shares.shares)
    assert slope.isfinite().all() and (slope != 0).all()


# Networks

LAYERS = {
    r"^_encoder_layers\.(\d+)\._model": r"down.\1",
    r"^_decoder_layers\.(\d+)\._model": r"up.\1",
    r"^_final_layer": "last",
    r"^_cnn\._model": "cnn",
}


def part(case, prefix):
    "The weights of one of the published networks, by our names."
    found = {key[len(prefix) :]: value for key, value in case.items() if key.startswith(prefix)}
    for theirs, ours in LAYERS.items():
        found = {re.sub(theirs, ours, name): value for name, value in found.items()}
    return found


@needs_golden
@torch.no_grad()
def test_kernels_and_flow_are_those_of_the_published_code():
    case = golden("published")
    kernels, flow = KernelPrediction(5, 5, 3, 4), BurstFlow(3, 1, 1)
    kernels.load_state_dict(part(case, "kpn/")), flow.load_state_dict(part(case, "stn/"))
    torch.testing.assert_close(kernels(case["kpn_in"]), case["kpn_kernels"][:, :, 0, 0], rtol=1e-5, atol=1e-6)
    for ours, k in zip(pyramid(case["stn_in"]), range(4)):
        torch.testing.assert_close(ours, case[f"pyramid_{k}"], rtol=1e-6, atol=1e-7)
    answers = []
    flow.cnn.register_forward_hook(lambda _net, _given, found: answers.append(found))
    aligned = flow.align(case["stn_in"], flow(case["stn_in"]))
    for k, found in enumerate(answers):
        theirs = case[f"stn_flow_px_{k}"]
        torch.testing.assert_close(found.reshape(theirs.shape), theirs, rtol=1e-5, atol=3e-6)
    assert (aligned - case["stn_aligned"]).abs().max() < 1e-5 * case["stn_aligned"].abs().max()


@needs_golden
@torch.no_grad()
def test_on_a_wide_frame_the_published_flow_is_bent():
    "Theirs divides what goes down by the width: with half of it, it is ours."
    case, flow = golden("published"), BurstFlow(3, 1, 1)
    flow.load_state_dict(part(case, "stn/"))
    wide = case["stn_in_wide"]
    ours = flow.align(wide, flow(wide))
    assert (ours - case["stn_aligned_wide"]).abs().max() > 0.5
    flow.cnn[-1].weight[1::2] *= 0.5
    flow.cnn[-1].bias[1::2] *= 0.5
    assert (flow.align(wide, flow(wide)) - case["stn_aligned_wide"]).abs().max() < 2e-5


@needs_golden
def test_merges_gamma_and_loss_are_those_of_the_equations():
    case = golden("kernels")
    frames, kernels = case["frames"][None, :, None], case["kernels"][None]
    close = lambda ours, theirs: torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    close(each_weighed(frames, kernels, "constant")[0, :, 0], case["each"])
    merged = weighed(frames, kernels, "constant") / 5
    close(merged[0, 0], case["merged"])
    annealed = merge_of_aligned(frames[:, :3], kernels)[0, 0]
    close(annealed, case["annealed_printed"])
    torch.testing.assert_close(5 / 3 * annealed, case["annealed_published"], rtol=1e-6, atol=1e-6)
    close(gamma_curve(case["gamma_in"].clamp(0, 1)), case["gamma_out"])
    difference = gamma_curve(merged[0, 0].clamp(0, 1)) - case["target"]
    close(difference.abs().mean(), case["l1"])
    close(sobel(difference[None]).abs().mean(), case["l1_sobel"])


@needs_golden
def test_a_published_checkpoint_becomes_a_restorer(tmp_path):
    case = golden("published")
    state = {
        "module._fm._weights": torch.tensor([0.4, -0.9, 0.1]),
        "module._fm._min_percentages": torch.zeros(3),
    }
    for prefix, network in (("kpn/", "module._kpn."), ("stn/", "module._stn.")):
        state |= {network + key[4:]: value for key, value in case.items() if key.startswith(prefix)}
    torch.save(
        {"epoch": 1, "t": 9, "best_loss": 1.0, "state_dict": state, "optimizer": {}}, tmp_path / "b.pth.tar"
    )
    network, shares = load_published_gimbal(tmp_path / "b.pth.tar")
    assert isinstance(network, FlowKPN) and network.sizes.tolist() == [3, 4, 1, 3, 1]
    assert torch.allclose(1e6 * Shutter().exposures(shares, 3), torch.tensor([894.0, 243.7, 662.3]), atol=0.1)
    with torch.no_grad():
        pictures, _ = network.seen(still_burst(case["stn_in"], 0.1))
        restored = network(still_burst(case["stn_in"], 0.1))
    assert (pictures[:, :3] - case["stn_aligned"]).abs().max() < 1e-5
    assert torch.equal(pictures[:, 3:], case["stn_in"][:, [0, 2]]) and restored.isfinite().all()


@torch.no_grad()
def test_flow_down_is_flow_across_of_the_transposed_frames():
    torch.manual_seed(1)
    flow, turned = BurstFlow(3, 2, 0), BurstFlow(3, 2, 0)
    for layer in flow.cnn[::2]:
        torch.nn.init.normal_(layer.weight, std=0.4 / layer.weight[0].numel() ** 0.5)
    for ours, theirs in zip(flow.cnn[::2], turned.cnn[::2]):
        theirs.weight.copy_(ours.weight.mT), theirs.bias.copy_(ours.bias)
    swap = torch.tensor([1, 0, 3, 2])
    last = turned.cnn[-1]
    last.weight.copy_(last.weight[swap]), last.bias.copy_(last.bias[swap])
    frames = torch.rand(1, 3, 2, 32, 80, generator=generator(14))
    across, down = flow(frames), turned(frames.mT)
    assert across.abs().max() > 0.05
    torch.testing.assert_close(down.flip(2).mT, across, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [KPN, FlowKPN])
@pytest.mark.parametrize("n", range(1, 9))
@torch.no_grad()
def test_untrained_it_is_the_mean_of_any_number_of_frames_of_any_size(make, n):
    torch.manual_seed(0)
    frames = torch.rand(1, n, 4, 21, 38, generator=generator(15, n))
    restored, annealed = make(n, 4).merge(still_burst(frames, 0.1))
    counts = torch.full((n,), 2.0 if make is FlowKPN else 1.0)
    counts[0] = 1
    mean = (frames * (counts / counts.sum()).view(1, -1, 1, 1, 1)).sum(1)
    torch.testing.assert_close(restored, mean, rtol=1e-4, atol=2e-5)
    assert annealed.shape == (1, 1 if make is FlowKPN else n, 4, 21, 38)


def stirred(network, amount=0.02):
    "As if it had learned something."
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator(16)))
    return network.eval()


@pytest.mark.parametrize("make, size", [(KPN, (90, 235)), (FlowKPN, (58, 333))])
@torch.no_grad()
def test_tiles_have_no_seams(make, size):
    "Of odd sizes; tiles begin at multiples of 8, the network's coarsest px is 16 wide."
    network = stirred(make(2, 4))
    frames = 0.3 + 0.2 * torch.rand(1, 2, 4, *size, generator=generator(17))
    burst = still_burst(frames, 0.1)
    tiles = fit_tiles(network, burst, network.tile_bytes(2 * network.reach + 40, 2))
    whole, tiled = network(burst), assemble(restore_tiles(network.pieces(burst), tiles), tiles)
    assert len(tiles) > 1 and any(span.start % 16 for tile in tiles for span in tile)
    assert (tiled - whole).abs().max() < 1e-4 and (whole - frames.mean(1)).abs().max() > 0.01


@pytest.mark.parametrize("make", [KPN, FlowKPN])
@torch.no_grad()
def test_all_planes_of_a_pixel_have_the_same_kernel(make):
    network = stirred(make(3, 4))
    frames = torch.rand(1, 3, 1, 32, 32, generator=generator(18)).expand(-1, -1, 4, -1, -1)
    restored = network(still_burst(frames, 0.1))
    assert torch.allclose(restored, restored[:, :1].expand_as(restored), atol=1e-6)
    assert network.seen(still_burst(frames, 0.1))[1].shape[2] == 25


def test_the_loss_has_a_gradient_where_the_picture_is_negative():
    picture = torch.full((1, 1, 8, 8), -0.2, requires_grad=True)
    (slope,) = torch.autograd.grad(basic_loss(picture, torch.full((1, 1, 8, 8), 0.4)).sum(), picture)
    assert (slope < 0).all()


def test_weights_of_another_number_of_frames_or_another_reference_are_refused(tmp_path):
    save_weights(FlowKPN(3, 4), tmp_path / "three.pt")
    with pytest.raises(ValueError, match="shape"):
        load_weights(FlowKPN(4, 4), tmp_path / "three.pt")
    with pytest.raises(ValueError, match="reference"):
        load_weights(FlowKPN(3, 4, reference=1), tmp_path / "three.pt")


@pytest.mark.parametrize(
    "bad, said",
    [
        (lambda: KPN(3, 4, taps=4), "16 weights"),
        (lambda: GimbalShares(8), "8 readouts"),
        (lambda: relaxed_poisson(torch.ones(2), 0.0, generator(0)), "tau is 0"),
        (lambda: relaxed_poisson(torch.full((2,), 1300.0), 1.0, generator(0)), "above a table"),
        (lambda: PhotonSensor(camera=FLIR, white=20_000.0), "full well 10700"),
        (lambda: KPN(2, 4)(still_burst(torch.full((1, 2, 4, 8, 8), torch.nan), 0.1)), "NaN"),
        (lambda: Shutter().exposures(torch.full((3,), torch.nan), 3), "NaN"),
    ],
)
def test_bad_input_is_named(bad, said):
    with pytest.raises(ValueError, match=said):
        bad()
