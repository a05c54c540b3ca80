"""Run one thing in a process of its own and print by how much it raised the peak of memory, bytes, and its processor time, s."""

import sys
import time
from dataclasses import replace

import psutil
import torch
from measure import peak_memory
from plain import PlainBurstormer, PlainTMRNet

from debir_nb.light.sensor import still_burst
from debir_nb.light.simulator import Simulator, collect, timeline
from debir_nb.restorers.burstormer import Burstormer
from debir_nb.restorers.full_size import restore_full_size
from debir_nb.restorers.kernels import Kernels
from debir_nb.restorers.tmrnet import TMRNet


def training(form):
    net = PlainBurstormer(8, 48) if form == "plain" else Burstormer(8, 4, 4, 48)
    burst = still_burst(torch.rand(1, 8, 4, 64, 64), 0.05)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=form == "bf16"):
            restored = net(burst)
        restored.float().square().mean().backward()

    return step


def exposure(ticks):
    light, t = (
        collect(torch.rand(1, 228, 4, 128, 128)),
        torch.full((1, 1), float(ticks) / 1920, requires_grad=True),
    )
    gain = torch.full((1, 1), 100.0)
    return lambda: (
        Simulator().expose(light, *timeline(t), gain / t, torch.Generator()).frames.sum().backward()
    )


def picture(megapixels):
    "A network that looks around, and a smooth burst of four noisy frames."
    net, side = Burstormer(4, 4, 4, 8).eval(), (float(megapixels) * 1e6 / 4 / 12) ** 0.5
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    coarse = torch.nn.functional.interpolate(
        torch.rand(1, 4, 96, 128), size=tuple(4 * round(k * side / 4) for k in (3, 4)), mode="bicubic"
    )
    return net, still_burst(coarse[:, None] + 0.05 * torch.randn(1, 4, 4, *coarse.shape[2:]), 0.05)


def restoring(megapixels):
    net, burst = picture(megapixels)
    return lambda: restore_full_size(net, burst, memory=1e9)


def moving(megapixels, n=4):
    "A smooth scene that moves by 1.5 packed px a frame, and its noise."
    side = (float(megapixels) * 1e6 / 4 / 12) ** 0.5
    h, w = (2 * round(k * side / 2) for k in (3, 4))
    size = (h, w + 2 * n)
    scene = torch.nn.functional.interpolate(torch.rand(1, 4, h // 10, w // 10), size=size, mode="bicubic")
    frames = torch.stack([scene[..., k + k // 2 :][..., :w] for k in range(n)], 1)
    burst = still_burst(frames.add_(torch.randn(frames.shape), alpha=0.05), 0.05)
    return replace(burst, start=burst.start / 60, stop=burst.stop / 60)


def kernels(megapixels):
    net, burst = Kernels(48).eval(), moving(megapixels)
    return lambda: restore_full_size(net, burst)


LEVELS = torch.arange(5)[None]  # of a bracket of five


def bright_bracket(side=128):
    "Five frames in the unit of the middle one."
    return torch.rand(1, 5, 4, side, side) * 4.0 ** torch.arange(2, -3, -1.0).view(5, 1, 1, 1)


def recurrent(form):
    net, light = PlainTMRNet() if form == "plain" else TMRNet(residual=False), bright_bracket()
    call = net if form == "plain" else lambda x: net.stages(x, LEVELS, [5])
    return lambda: call(light).abs().mean().backward()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    form = globals()[sys.argv[1]](sys.argv[2])
    before, began = psutil.Process().memory_info().rss, time.process_time()
    if sys.argv[1] in ("restoring", "kernels"):
        before = 0  # all of the process counts
    form()
    print(peak_memory() - before, time.process_time() - began)
