"""Training: how many scenes a second every stage takes, and where the time goes; what a step at the paper's size takes."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import judge, note
from measure import flops

from debir_nb.light.footage import find_clips
from debir_nb.restorers.burstormer import Burstormer
from debir_nb.scenes.build import build_scenes
from debir_nb.scenes.plan import SPLITS, plan_scenes

STAGES = {
    "pretrain": "S1",
    "pseudo_gt": "S2-1, labels",
    "warm_up": "S2-1",
    "train_baenet": "S2-2",
    "finetune": "S3",
}
SIDES, N_SCENES = {"small": 64, "paper": 256}, {"small": 8, "paper": 2}  # px; of each split


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    "Folders of scenes by scale: waves at rest and moving, filmed at 240 frames/s."
    folder, y, x = tmp_path_factory.mktemp("footage"), *np.mgrid[:288, :288].astype(np.float32)
    for name, speed in (("a", 0), ("b", 0.5), ("c", 2)):
        (folder / f"{name}_240fps").mkdir()
        for k in range(31):
            cv2.imwrite(
                f"{folder}/{name}_240fps/{k:03d}.png",
                np.stack([120 + 90 * np.sin((x - speed * k) / 4 + y / 9)] * 3, -1).round().astype(np.uint8),
            )
    clips, made = find_clips(folder).clips, {}

    def at(scale):
        if scale not in made:
            made[scale] = tmp_path_factory.mktemp(scale) / "scenes"
            build_scenes(
                clips,
                plan_scenes(
                    clips,
                    dict.fromkeys(SPLITS, N_SCENES[scale]),
                    dict.fromkeys(SPLITS, SIDES[scale]),
                    (0.4, 0.3, 0.3),
                    228,
                    0,
                ),
                made[scale],
                228,
            )
        return made[scale]

    return at


def measure(scale, stage, folder, steps, request):
    "A line of the table from some steps of a stage, in a process of its own."
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("throughput.py"), scale, stage, folder, str(steps)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    took = sum(found["seconds"].values())
    return note(
        {
            "what": f"{STAGES[stage]}, scale {scale}",
            "stage": STAGES[stage],
            "scale": scale,
            "ms": 1e3 * took / found["batch"],
            "scenes_per_s": found["batch"] / took,
            "loading": found["seconds"]["data"] / took,
            "peak_mb": found["peak"] / 1e6,
            "parts": {part: seconds / took for part, seconds in found["seconds"].items()},
            "scenes_in_run": found["scenes_in_run"],
        },
        request,
    )


@pytest.mark.parametrize("stage", STAGES)
def test_throughput(scenes, stage, request):
    judge(measure("small", stage, scenes("small"), 4, request), loading=("<=", 0.1))


@pytest.mark.long
@pytest.mark.parametrize("stage", STAGES)
def test_first_step_at_the_papers_size(scenes, stage, request):
    # of fractions of a second, in which a scene's first reading would count too much
    steps = 4 if stage == "warm_up" else 1
    line, burst = measure("paper", stage, scenes("paper"), steps, request), torch.rand(1, 4, 4, 32, 32)
    # of 128 x 128 px: the work grows with their number
    forward = 16 * flops(lambda: Burstormer(4, 4, 4, 48)(burst, torch.full((1, 4), 0.05))) / 1e9
    line["gflop"] = {"pretrain": 3, "pseudo_gt": 5, "warm_up": 0, "train_baenet": 2, "finetune": 3}[
        stage
    ] * forward
    judge(line, peak_mb=("<=", 16000), loading=("<=", 0.1))
