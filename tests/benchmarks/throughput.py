"""Run some steps of one stage in a process of its own and print what they took, as JSON: seconds by part, scenes, peak memory.

python throughput.py SCALE STAGE SCENES STEPS
"""

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from measure import Stopwatch, peak_memory

from debir_nb.core import generator
from debir_nb.disk import root
from debir_nb.light.sensor import EqualBrightness
from debir_nb.light.simulator import Simulator
from debir_nb.pipeline.params import at_scale, read_params, sections
from debir_nb.policies.baenet import BAENet
from debir_nb.policies.protocol import observe, random_gains
from debir_nb.policies.rules import random_exposures
from debir_nb.restorers.burstormer import Burstormer
from debir_nb.scenes.store import SceneStore, StoredLight, open_scenes
from debir_nb.scoring.search import candidate_errors, candidates
from debir_nb.training import losses
from debir_nb.training.loop import fit

PARTS = ("data", "simulate", "policy", "restore", "backward", "other")


def trained(stage, n_frames, features, batch, scenes):
    """The network that a stage trains and its loss, as in its notebook. The labels of S2-1 are random, which
    take as long to learn from as true ones.
    """
    store = open_scenes(scenes, "baenet" if stage in ("warm_up", "train_baenet") else "restore", n_frames)
    restorer, baenet, simulator = (
        Burstormer(n_frames, 4, 4, features),
        BAENet(n_frames).eval(),
        Simulator(EqualBrightness(jitter=True)),
    )

    def warm_up(model, draws, step):
        index, light, gain = losses.draw_scenes(store, batch, draws, torch.device("cpu"))
        return (
            losses.warm_up_loss(
                model(*observe(simulator, light, gain, store.colour(index), draws)),
                random_exposures(batch, n_frames, draws),
            ),
            {},
        )

    if stage == "pretrain":
        return restorer, lambda model, draws, step: losses.pretraining_loss(
            model, store, simulator, [n_frames], batch, draws
        )
    if stage == "warm_up":
        return baenet.train(), warm_up
    if stage == "train_baenet":
        return baenet, lambda model, draws, step: losses.debir_loss(
            model, restorer.eval().requires_grad_(False), store, simulator, batch, draws
        )
    return restorer, lambda model, draws, step: losses.debir_loss(
        baenet.requires_grad_(False), model, store, simulator, batch, draws
    )


def train(stage, given, scenes, steps, begins):
    "Some steps of a training stage, through the loop that it has."
    (model, loss), turn = (
        trained(stage, *(given[name] for name in ("n_frames", "features", "batch")), scenes),
        iter(range(steps)),
    )

    def announced(model, draws, step):
        begins(next(turn))
        return loss(model, draws, step)

    with TemporaryDirectory() as out:
        fit(
            model,
            announced,
            steps=steps,
            lr=given["lr"],
            lr_final=given["lr_final"],
            clip=given["clip"],
            seed=0,
            out=out,
        )


def search(given, scenes, steps, begins):
    "Some batches of the search for pseudo ground truth, S2-1."
    store, restorer, batch = (
        open_scenes(scenes, "baenet", given["n_frames"]),
        Burstormer(given["n_frames"], 4, 4, given["features"]).eval(),
        given["batch"],
    )
    for step in range(steps):
        begins(step)
        index, gain = (
            torch.arange(step * batch, (step + 1) * batch) % len(store),
            random_gains(batch, generator(step)),
        )
        candidate_errors(
            restorer, Simulator(), store.light(index), gain, candidates(given["n_frames"]), (step,)
        )


def measure(scale, stage, scenes, steps):
    """Seconds a step, by part; gradients that the threads of the restoration find for themselves are part of
    it. A run of one step is counted whole; a longer one warms up for two steps first, in which scenes are
    met for the first time.
    """
    watch, params, warm = Stopwatch(), read_params(root() / "params.yaml"), 2 if steps > 1 else 0
    given = {
        name: at_scale(value, scale) for name, value in (params["model"] | sections(params)[stage]).items()
    }
    torch.manual_seed(0)
    for part, owner, *names in (
        ("data", SceneStore, "light", "colour"),
        ("data", StoredLight, "sums"),
        ("simulate", Simulator, "burst", "target"),
        ("simulate", losses, "observe"),
        ("policy", BAENet, "forward"),
        ("restore", Burstormer, "forward"),
        ("restore", losses, "restoration_loss"),
        ("backward", torch.Tensor, "backward"),
    ):
        watch.watch(part, owner, *names)

    def begins(step):
        if step == warm:
            watch.restart()

    if stage == "pseudo_gt":
        search(given, scenes, warm + steps, begins)
    else:
        train(stage, given, scenes, warm + steps, begins)
    watch.turn()
    return {
        "seconds": {part: watch.spent[part] / steps for part in PARTS},
        "batch": given["batch"],
        "peak": peak_memory(),
        "scenes_in_run": given["n_labels"] if stage == "pseudo_gt" else given["steps"] * given["batch"],
    }


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    print(json.dumps(measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
