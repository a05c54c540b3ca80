"""The targets, as ratios within one run; `make bench` runs them and writes results/benchmarks.json."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import judge, note
from measure import flops
from peak import LEVELS, bright_bracket, picture
from plain import PlainBurstormer, PlainTMRNet, literal_burst, literal_exposure

from debir_nb.core import FRAME_TIME, generator
from debir_nb.light.motion import motion_magnitude
from debir_nb.light.raw import CameraColour, sample_cfa
from debir_nb.light.sensor import still_burst
from debir_nb.light.simulator import Simulator, collect, mean_radiance, timeline
from debir_nb.policies.baenet import BAENet, export_onnx, recalibrate_batchnorm
from debir_nb.policies.mobilenet import MobileNetV2
from debir_nb.restorers.burstormer import Burstormer
from debir_nb.restorers.full_size import SharedAttention, assemble, fit_tiles, restore_tiles
from debir_nb.restorers.tmrnet import TMRNet

B, N, PLANE = 8, 4, 4 * 128 * 128 * 4  # bursts, frames, bytes of a packed frame of 256 x 256 RAW
TICKS = torch.tensor([[8.3, 24.2, 40.1, 50.4]]).repeat(B, 1)


def peak(*arguments):
    "Peak memory (bytes) and processor time (s) of a process of its own."
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("peak.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return map(float, done.stdout.split())


# Counting


def test_grouped_convolutions_are_counted_as_grouped():
    dense, grouped = (torch.nn.Conv2d(16, 16, 3, padding=1, groups=g, bias=False) for g in (1, 16))
    x = torch.rand(1, 16, 8, 8)
    assert flops(lambda: dense(x)) == 2 * 9 * 16 * 16 * 64 and flops(lambda: grouped(x)) == 2 * 9 * 16 * 64


# Simulator: four frames of 256 x 256 RAW


@pytest.fixture(scope="module")
def colour():
    return torch.rand(1, 228, 3, 256, 256, generator=generator(0)).expand(B, -1, -1, -1, -1)


@pytest.fixture(scope="module")
def packed(colour):
    return sample_cfa(colour[0])[None].expand(B, -1, -1, -1, -1)


@pytest.fixture(scope="module")
def light(packed):
    return collect(packed)


def back(form):
    "Forward and backward, to the exposure times."
    grad = torch.ones(B, N, 4, 128, 128)

    def both():
        form((TICKS * FRAME_TIME).requires_grad_()).backward(grad)

    return both


def test_literal_and_closed_form_agree(packed, light):
    ends = timeline(TICKS * FRAME_TIME)
    torch.testing.assert_close(
        literal_exposure(packed, *ends), mean_radiance(light, *ends), atol=1e-5, rtol=0
    )


def test_exposure(row, light):
    ends = timeline(TICKS * FRAME_TIME)
    with torch.no_grad():
        line = row(
            "Eq. (7), forward",
            lambda: mean_radiance(light, *ends),
            moved=B * N * 5 * PLANE,
            rounds=9,
            share=B,
        )
    judge(line, of_memcpy=(">=", 1 / 3))


def test_exposure_and_its_gradient(row, packed, light):
    fast, literal = (
        back(lambda t, form=form, scene=scene: form(scene, *timeline(t)))
        for form, scene in ((mean_radiance, light), (literal_exposure, packed))
    )
    judge(
        row(
            "Eq. (7), forward + backward", fast, literal, "sum over ticks", moved=B * N * 10 * PLANE, share=B
        ),
        ratio=(">=", 20),
        of_memcpy=(">=", 1 / 3),
    )


def test_burst(row, light):
    gain = torch.full((B,), 600.0)
    with torch.no_grad():
        line = row(
            "simulated burst, forward",
            lambda: Simulator().burst(light, TICKS * FRAME_TIME, gain, generator(1)),
            moved=B * N * 7 * PLANE,
            rounds=9,
            share=B,
        )
    judge(line, ms=("<=", 5), of_memcpy=(">=", 1 / 3))


def test_burst_and_its_gradient(row, colour, light):
    gain = torch.full((B,), 600.0)
    fast, literal = (
        back(lambda t: Simulator().burst(light, t, gain, generator(1)).frames),
        back(lambda t: literal_burst(colour, t, gain, generator(1))),
    )
    judge(
        row(
            "simulated burst, forward + backward",
            fast,
            literal,
            "sum over ticks in colour, then filter and noise",
            rounds=2,
            share=B,
        ),
        ratio=(">=", 20),
    )


def test_a_long_exposure_costs_no_more_than_a_short_one(row, light):
    long, short = (
        back(
            lambda t, ticks=ticks: mean_radiance(
                light, t * 0 + 80 * FRAME_TIME, t * 0 + (80 + ticks) * FRAME_TIME + 1e-3 * t
            )
        )
        for ticks in (64, 8)
    )
    judge(
        row("Eq. (7) at 64 ticks, forward + backward", long, short, "at 8 ticks", rounds=25, share=B),
        ratio=(">=", 1 / 1.1),
    )


def test_memory_of_training_does_not_depend_on_the_exposure(request):
    (long, _), (short, _) = peak("exposure", 64), peak("exposure", 8)
    judge(
        note(
            {
                "what": "memory of an exposure of 64 ticks, forward + backward",
                "against": "8 ticks",
                "peak_mb": long / 1e6,
                "memory_ratio": long / short,
            },
            request,
        ),
        memory_ratio=("<=", 1.1),
    )


# Burstormer: eight frames, 48 features, 64 x 64


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    fast = Burstormer(8, 4, 4, 48)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    slow = PlainBurstormer(8, 48)
    slow.load_state_dict({k: w for k, w in fast.state_dict().items() if k != "_extra_state"})
    return fast, slow, still_burst(torch.rand(1, 8, 4, 64, 64), 0.05)


def step(net, burst, bfloat16=False):
    def both():
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            restored = net(burst)
        restored.float().square().mean().backward()

    return both


def test_the_plain_port_agrees(networks):
    fast, slow, burst = networks
    with torch.no_grad():
        torch.testing.assert_close(fast(burst), slow(burst), atol=1e-4, rtol=1e-4)


def restore(net, burst, bfloat16=False):
    def forward():
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            net(burst)

    return forward


@pytest.mark.parametrize("bfloat16", [False, True])
def test_training_step(row, networks, bfloat16):
    fast, slow, burst = networks
    line = row(
        "Burstormer, training step" + " in bfloat16" * bfloat16,
        step(fast, burst, bfloat16),
        step(slow, burst),
        "plain port",
        flop=0 if bfloat16 else 3 * flops(lambda: slow(burst)),
        rounds=1,
    )
    (own, _), (port, _) = peak("training", "bf16" if bfloat16 else "fast"), peak("training", "plain")
    line |= {"peak_mb": own / 1e6, "memory_ratio": own / port}
    judge(line, ratio=(">=", 2), memory_ratio=("<=", 0.6))


@pytest.mark.parametrize("bfloat16", [False, True])
@torch.no_grad()
def test_inference(row, networks, bfloat16):
    fast, slow, burst = networks
    judge(
        row(
            "Burstormer, inference" + " in bfloat16" * bfloat16,
            restore(fast, burst, bfloat16),
            restore(slow, burst),
            "plain port",
            flop=0 if bfloat16 else flops(lambda: slow(burst)),
            rounds=1,
        ),
        ratio=(">=", 1.5),
    )


# Preview to exposure times


@pytest.fixture(scope="module")
def baenet():
    "A BAENet whose answers depend on what it sees."
    torch.manual_seed(0)
    net = BAENet()
    for parameter in net.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    recalibrate_batchnorm(
        net, lambda: net(torch.rand(8, 4, 48, 48), 512 + 512 * torch.rand(8), 10 * torch.rand(8))
    )
    return net


def test_preview_to_exposure_times(row):
    bare, net, planes = MobileNetV2(6, 5).eval(), BAENet().eval(), torch.rand(1, 6, 128, 128)
    previews, gain = (
        (torch.rand(1, 4, 128, 128, generator=generator(k)) for k in (0, 1)),
        torch.tensor([600.0]),
    )
    previous, preview = previews
    colour = CameraColour(torch.eye(3)[None], *(torch.ones(1) for _ in range(3)))
    with torch.no_grad():
        line = row(
            "two previews to exposure times",
            lambda: net(preview, gain, motion_magnitude(preview, previous, colour)),
            lambda: bare(planes),
            "MobileNetV2 alone",
            flop=flops(lambda: bare(planes)),
            rounds=25,
        )
    judge(line, ratio=(">=", 1 / 2))


@torch.no_grad()
def test_onnx(row, baenet, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    export_onnx(baenet, tmp_path / "baenet.onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session, inputs = (
        runtime.InferenceSession(tmp_path / "baenet.onnx", options),
        (
            torch.rand(1, 4, 128, 128),
            torch.tensor([600.0]),
            torch.tensor([3.0]),
        ),
    )

    def answer():
        return session.run(None, dict(zip(("preview", "gain", "motion"), (x.numpy() for x in inputs))))[0]

    line, ours = (
        row("BAENet by ONNX Runtime", answer, lambda: baenet(*inputs), "PyTorch", rounds=9),
        baenet(*inputs),
    )
    line["difference"] = ((torch.from_numpy(answer()) - ours).abs() / ours).max().item()
    judge(line, difference=("<=", 1e-4))


# Full-size images, 8 features


@pytest.mark.parametrize(
    "megapixels", (12, pytest.param(24, marks=pytest.mark.long), pytest.param(48, marks=pytest.mark.long))
)
def test_full_size(megapixels, request):
    (little, quick), (much, slow) = peak("restoring", 3), peak("restoring", megapixels)
    line = note(
        {
            "what": f"{megapixels} megapixels, tiles of 1 GB",
            "ms": 1e3 * slow,
            "against": "3 megapixels",
            "ratio": quick / slow,
            "peak_mb": much / 1e6,
            "memory_ratio": much / little,
        },
        request,
    )
    judge(line, ratio=(">=", 1 / (1.1 * megapixels / 3)), peak_mb=("<=", 4000))


def test_full_size_by_kernels(request):
    "Four frames of 12 megapixels, with 48 features, in 60 s on two cores and 4 GB."
    much, slow = peak("kernels", 12)
    line = note(
        {"what": "12 megapixels by kernels, tiles of 2 GB", "ms": 1e3 * slow, "peak_mb": much / 1e6}, request
    )
    judge(line, ms=("<=", 120e3), peak_mb=("<=", 4000))


@torch.no_grad()
def test_tiles_fit(request):
    "A seam is what a tile and its neighbour say of the pixels on both sides of the border between them."
    net, burst = picture(1.5)
    tiles, shared = fit_tiles(net, burst, 1e9), SharedAttention()
    piece = net.pieces(burst)
    with shared.collect(net):
        list(restore_tiles(piece, tiles[::2]))
    with shared.use(net):
        pieces = list(restore_tiles(piece, tiles))
    whole, seam = assemble(iter(pieces), tiles), 0
    for tile, found in zip(tiles, pieces):
        near = [slice(max(s.first - 1, s.start), min(s.stop + 1, s.end)) for s in tile]
        inside = (slice(at.start - s.start, at.stop - s.start) for at, s in zip(near, tile))
        seam = max(seam, (found[..., *inside] - whole[..., *near]).abs().max().item())
    judge(
        note({"what": f"seams between {len(tiles)} tiles", "difference": seam}, request),
        difference=("<=", 1e-4),
    )


# TMRNet of published size: five frames of 128 x 128 packed px


@pytest.fixture(scope="module")
def recurrent():
    torch.manual_seed(0)
    fast, slow = TMRNet(residual=False), PlainTMRNet()
    with torch.no_grad():
        fast.learn_para.add_(0.1)
    slow.load_state_dict({k: w for k, w in fast.state_dict().items() if k != "_extra_state"})
    return fast, slow, bright_bracket()


def test_the_plain_tmrnet_agrees(recurrent):
    fast, slow, light = recurrent
    piece = light[..., :40, :48]
    with torch.no_grad():
        torch.testing.assert_close(fast.stages(piece, LEVELS, [5])[:, 0], slow(piece), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_tmrnet_inference(row, recurrent):
    fast, slow, light = recurrent
    line = row(
        "TMRNet, inference",
        lambda: fast.stages(light, LEVELS, [5]),
        lambda: slow(light),
        "plain port",
        rounds=1,
    )
    judge(line, ratio=(">=", 1 / 0.7))


def test_tmrnet_training_step(row, recurrent):
    fast, slow, light = recurrent

    def step(net, form):
        def both():
            net.zero_grad()
            form(light).abs().mean().backward()

        return both

    line = row(
        "TMRNet, training step",
        step(fast, lambda x: fast.stages(x, LEVELS, [5])),
        step(slow, slow),
        "plain port",
        rounds=1,
    )
    (own, _), (port, _) = peak("recurrent", "fast"), peak("recurrent", "plain")
    line |= {"peak_mb": own / 1e6, "memory_ratio": own / port}
    judge(line, ratio=(">=", 1 / 0.6), peak_mb=("<=", 3300))
