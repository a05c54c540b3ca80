"""The annotations are true: with every call checked by jaxtyping and beartype, a scene goes through the library on tiny tensors.

The check is switched on when a module is first imported, hence the process of its own.
"""
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_annotations_hold():
    run = subprocess.run([sys.executable, __file__], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]


def physics(generator):
    "Display values to a simulated burst, and back."
    import torch
    from debir_nb.degradation import degrade, exposure_value, printed_noise, sensor_noise
    from debir_nb.raw import develop, pack, random_colour, sample_cfa, unpack, unprocess
    from debir_nb.simulator import Simulator, collect

    colour = random_colour(2, generator)
    simulator = Simulator(jitter=True)
    rgb = unprocess(torch.rand(2, simulator.ticks(2), 3, 16, 16, generator=generator), colour)
    light = collect(sample_cfa(rgb))
    gain = torch.tensor([2.0, 8.0])
    exposures = torch.full((2, 2), 1 / 120, requires_grad=True)
    burst = simulator.burst(light, exposures, gain, generator)
    burst.frames.mean().backward()
    develop(simulator.target(light), colour)
    pack(unpack(burst.frames.detach()))
    degrade(rgb.clamp(0, 1), gain, 1.0, generator)
    exposure_value(exposures, torch.ones(2, 2)), printed_noise(gain), sensor_noise(gain)
    return *simulator.previews(light, gain, generator), gain, burst


def networks(previous, preview, gain, burst):
    "A preview to exposure times, by a network and by a bracket."
    import torch
    from debir_nb.baenet import BAENet
    from debir_nb.policies import bracket

    motion = torch.tensor([0.0, 3.0])
    for policy in (BAENet(n_frames=2), bracket(2)):
        assert policy(preview, gain, motion).shape == (2, 2)


def main():
    from jaxtyping import TypeCheckError, install_import_hook
    with install_import_hook("debir_nb", "beartype.beartype"):
        import debir_nb
        for module in pkgutil.iter_modules(debir_nb.__path__, "debir_nb."):
            importlib.import_module(module.name)
    from debir_nb.core import generator
    from debir_nb.degradation import burst_gains
    networks(*physics(generator(0)))
    try: burst_gains(burst_gains, "a shape that is none")
    except TypeCheckError: return
    raise AssertionError("the check is not switched on")


if __name__ == "__main__":
    main()
