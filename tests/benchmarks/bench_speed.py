"""The targets, as ratios within one run; `make bench` runs them and writes results/benchmarks.json."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import flops, note
from plain import literal_burst, literal_exposure, plain

from debir_nb.baenet import BAENet, MobileNetV2
from debir_nb.burstormer import Burstormer
from debir_nb.core import FRAME_TIME, generator
from debir_nb.motion import motion_magnitude
from debir_nb.raw import CameraColour, sample_cfa
from debir_nb.simulator import Simulator, collect, mean_radiance, timeline

B, N, PLANE = 8, 4, 4*128*128*4  # bursts, frames, bytes of a packed frame of 256 x 256 RAW
TICKS = torch.tensor([[8.3, 24.2, 40.1, 50.4]]).repeat(B, 1)


def peak(*arguments):
    "Peak memory (bytes) and processor time (s) of a process of its own."
    done = subprocess.run([sys.executable, Path(__file__).with_name("peak.py"), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return map(float, done.stdout.split())


# Counting

def test_grouped_convolutions_are_counted_as_grouped():
    dense, grouped = (torch.nn.Conv2d(16, 16, 3, padding=1, groups=g, bias=False) for g in (1, 16))
    x = torch.rand(1, 16, 8, 8)
    assert flops(lambda: dense(x)) == 2*9*16*16*64 and flops(lambda: grouped(x)) == 2*9*16*64


# Simulator: four frames of 256 x 256 RAW

@pytest.fixture(scope="module")
def colour(): return torch.rand(1, 228, 3, 256, 256, generator=generator(0)).expand(B, -1, -1, -1, -1)


@pytest.fixture(scope="module")
def packed(colour): return sample_cfa(colour[0])[None].expand(B, -1, -1, -1, -1)


@pytest.fixture(scope="module")
def light(packed): return collect(packed)


def back(form):
    "Forward and backward, to the exposure times."
    def both():
        t = (TICKS*FRAME_TIME).requires_grad_()
        frames = form(t)
        frames.backward(torch.ones_like(frames))
    return both


def test_literal_and_closed_form_agree(packed, light):
    ends = timeline(TICKS*FRAME_TIME)
    torch.testing.assert_close(literal_exposure(packed, *ends), mean_radiance(light, *ends), atol=1e-5, rtol=0)


def test_exposure(row, light):
    ends = timeline(TICKS*FRAME_TIME)
    with torch.no_grad():
        line = row(f"Eq. (7), {B} bursts of 4 frames, forward", lambda: mean_radiance(light, *ends), moved=B*N*5*PLANE, rounds=9)
    assert line["of_memcpy"] > 1/3


def test_exposure_and_its_gradient(row, packed, light):
    fast, literal = (back(lambda t, form=form, scene=scene: form(scene, *timeline(t))) for form, scene in ((mean_radiance, light), (literal_exposure, packed)))
    line = row(f"Eq. (7), {B} bursts of 4 frames, forward + backward", fast, literal, "sum over ticks", moved=B*N*10*PLANE)
    assert line["ratio"] > 20


def test_burst(row, light):
    gain = torch.full((B,), 600.)
    with torch.no_grad():
        line = row(f"simulator whole, {B} bursts, forward", lambda: Simulator().burst(light, TICKS*FRAME_TIME, gain, generator(1)), moved=B*N*7*PLANE, rounds=9)
    assert line["ms"]/B < 5


def test_burst_and_its_gradient(row, colour, light):
    gain = torch.full((B,), 600.)
    fast, literal = back(lambda t: Simulator().burst(light, t, gain, generator(1)).frames), back(lambda t: literal_burst(colour, t, gain, generator(1)))
    row(f"simulator whole, {B} bursts, forward + backward", fast, literal, "sum over ticks in colour, then CFA", rounds=2)


def test_a_long_exposure_costs_no_more_than_a_short_one(row, light):
    long, short = (back(lambda t, ticks=ticks: mean_radiance(light, t*0 + 80*FRAME_TIME, t*0 + (80 + ticks)*FRAME_TIME + 1e-3*t)) for ticks in (64, 8))
    line = row("Eq. (7) at 64 ticks, forward + backward", long, short, "at 8 ticks", rounds=25)
    assert line["ratio"] > 1/1.1


def test_memory_of_training_does_not_depend_on_the_exposure():
    (long, _), (short, _) = peak("exposure", 64), peak("exposure", 8)
    note({"what": "memory of forward + backward, one frame of 64 ticks", "against": "8 ticks", "peak_mb": long/1e6, "memory_ratio": long/short})
    assert abs(long - short) < .1*short + 2**20


# Burstormer: eight frames, 48 features, 64 x 64

@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    fast = Burstormer(8, 4, 4, 48)
    with torch.no_grad():
        for parameter in fast.parameters(): parameter.add_(.01*torch.randn_like(parameter))
    slow = Burstormer(8, 4, 4, 48)
    slow.load_state_dict(fast.state_dict())
    return fast, plain(slow), torch.rand(1, 8, 4, 64, 64), torch.full((1, 8), .05)


def step(net, burst, std, bfloat16=False):
    def both():
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16): restored = net(burst, std)
        restored.float().square().mean().backward()
    return both


def test_the_plain_port_agrees(networks):
    fast, slow, burst, std = networks
    with torch.no_grad(): torch.testing.assert_close(fast(burst, std), slow(burst, std), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_training_step(row, networks, form):
    fast, slow, burst, std = networks
    count = 3*flops(lambda: slow(burst, std))
    line = row(f"Burstormer training step, {form}", step(fast, burst, std, form == "bf16"), step(slow, burst, std), "plain port, fp32", flop=count, rounds=1)
    (own, _), (port, _) = peak("training", "bf16" if form == "bf16" else "fast"), peak("training", "plain")
    line |= {"peak_mb": own/1e6, "memory_ratio": own/port}
    if form == "fp32": assert line["ratio"] >= 2 and line["memory_ratio"] <= .6, line


@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_inference(row, networks, form):
    fast, slow, burst, std = networks

    def restore():
        with torch.autocast("cpu", torch.bfloat16, enabled=form == "bf16"): fast(burst, std)
    with torch.no_grad():
        line = row(f"Burstormer inference, {form}", restore, lambda: slow(burst, std), "plain port, fp32", flop=flops(lambda: slow(burst, std)), rounds=1)
    if form == "fp32": assert line["ratio"] >= 1.5, line


# Preview to exposure times

def test_preview_to_exposure_times(row):
    bare, net, planes = MobileNetV2(6, 5).eval(), BAENet().eval(), torch.rand(1, 6, 128, 128)
    previews, gain = (torch.rand(1, 4, 128, 128, generator=generator(k)) for k in (0, 1)), torch.tensor([600.])
    previous, preview = previews
    colour = CameraColour(torch.eye(3)[None], *(torch.ones(1) for _ in range(3)))
    with torch.no_grad():
        line = row("two previews of 256 x 256 to exposure times", lambda: net(preview, gain, motion_magnitude(preview, previous, colour)), lambda: bare(planes), "bare MobileNetV2",
                   flop=flops(lambda: bare(planes)), rounds=25)
    assert line["ratio"] > 1/2


# Full-size images, 8 features

def test_twelve_megapixels():
    (little, quick), (much, slow) = peak("restoring", 3), peak("restoring", 12)
    note({"what": "12 MP burst of 4 frames, 8 features, tiles of 1 GB", "ms": 1e3*slow, "against": "3 MP", "ratio": quick/slow, "peak_mb": much/1e6, "memory_ratio": much/little,
          "command": "make bench BENCH=\"-k test_twelve_megapixels\""})
    assert much < 4e9 and slow < 4.4*quick
