"Losses and the protocol of evaluation, on networks small enough to know the answer; and that two processes train every stage as one does."

import json
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch

from debir_nb.core import FRAME_TIME, T_MAX, T_MIN, budget, generator
from debir_nb.light.footage import find_clips
from debir_nb.light.sensor import EqualBrightness, still_burst
from debir_nb.light.simulator import Simulator, collect
from debir_nb.policies.baenet import BAENet
from debir_nb.policies.protocol import observe
from debir_nb.policies.rules import Fixed, bracket, random_exposures
from debir_nb.restorers.burstormer import Burstormer
from debir_nb.restorers.protocol import restore
from debir_nb.scenes.build import build_scenes
from debir_nb.scenes.plan import SPLITS, plan_scenes
from debir_nb.scenes.store import SceneStore, StoredLight, open_scenes
from debir_nb.scoring.evaluate import evaluate
from debir_nb.scoring.search import candidate_errors, candidates, restoration_errors
from debir_nb.training.loop import fit
from debir_nb.training.losses import (
    debir_loss,
    draw_scenes,
    l1,
    log_l1,
    pretraining_loss,
    restoration_loss,
    warm_up_loss,
)


class MeanRestorer(torch.nn.Module):
    "Inverse-variance-weighted mean with one learnable brightness."

    def __init__(self):
        super().__init__()
        self.brightness = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, burst):
        weight = burst.noise_std**-2 / (burst.noise_std**-2).sum(1, keepdim=True)
        return self.brightness * (weight[..., None, None, None] * burst.frames).sum(1)


class OnePolicy(torch.nn.Module):
    "Learnable exposures, the same for all scenes."

    def __init__(self, ticks):
        super().__init__()
        self.ticks = torch.nn.Parameter(torch.tensor(ticks))

    def forward(self, preview, gain, motion):
        return (self.ticks * FRAME_TIME).expand(len(preview), -1)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder, out = tmp_path_factory.mktemp("footage"), tmp_path_factory.mktemp("scenes")
    y, x = np.mgrid[:64, :80].astype(np.float32)
    for name, speed in (("a", 0), ("b", 0.5), ("c", 2)):
        (folder / f"{name}_240fps").mkdir()
        for k in range(31):
            grey = 120 + 90 * np.sin((x - speed * k) / 4 + y / 9)
            cv2.imwrite(
                str(folder / f"{name}_240fps" / f"{k:03d}.png"),
                np.stack([grey] * 3, -1).round().astype(np.uint8),
            )
    clips = find_clips(folder).clips
    plan = plan_scenes(clips, dict.fromkeys(SPLITS, 4), dict.fromkeys(SPLITS, 48), (0.4, 0.3, 0.3), 228, 0)
    build_scenes(clips, plan, out, 228)
    return {split: SceneStore(out, split) for split in SPLITS}


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("loss_of", [l1, log_l1])
def test_threads_that_share_a_batch_find_the_gradients_of_one(stores, batch, frozen, loss_of):
    found, index = [], torch.arange(batch) % len(stores["restore"])
    light, before = stores["restore"].light(index), torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            restorer, exposures = (
                MeanRestorer().requires_grad_(not frozen),
                (torch.tensor([[11.0, 9, 30, 24]]) * FRAME_TIME).repeat(batch, 1).requires_grad_(),
            )
            loss = restoration_loss(
                restorer,
                Simulator().burst(light, exposures, torch.full((batch,), 700.0), generator(3)),
                Simulator().target(light),
                loss_of,
            )
            (3 * loss).backward()
            assert torch.get_num_threads() == threads and (restorer.brightness.grad is None) == frozen
            found.append(
                [loss.detach(), exposures.grad, torch.zeros(()) if frozen else restorer.brightness.grad]
            )
        finally:
            torch.set_num_threads(before)
    assert found[0][1].abs().min() > 0
    for one, shared in zip(*found):
        torch.testing.assert_close(one, shared, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_threads_restore_what_one_would(batch):
    frames, std = (
        torch.rand(batch, 4, 4, 6, 6, generator=generator(1)),
        torch.rand(batch, 4, generator=generator(2)),
    )
    burst, before = still_burst(frames, std + 0.1), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        restored = restore(MeanRestorer(), burst)
        assert torch.get_num_threads() == 3 and not restored.requires_grad
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(restored, MeanRestorer()(burst).detach(), rtol=0, atol=1e-6)


def test_in_a_relative_loss_every_scene_counts_alike():
    """A scene ten times as dark has a tenth of the error and the same say; without logarithms it has a tenth
    of it.
    """
    target = torch.rand(2, 4, 6, 6, generator=generator(0)) * torch.tensor([1.0, 0.1])[:, None, None, None]
    for loss_of, share in ((l1, 0.1), (log_l1, 1.0)):
        factor = torch.full((2,), 1.2, requires_grad=True)
        loss_of(factor[:, None, None, None] * target, target).mean().backward()
        assert (factor.grad[1] / factor.grad[0]).item() == pytest.approx(share, rel=0.15)
    torch.testing.assert_close(log_l1(target + 0.25, target).exp(), torch.full((2,), 0.25), rtol=1e-4, atol=0)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_random_exposures_are_possible_and_independent_but_for_the_budget(n):
    ticks = random_exposures(3000, n, generator(n)) / FRAME_TIME
    assert (
        ticks.min() >= T_MIN / FRAME_TIME - 1e-3
        and ticks.max() <= T_MAX / FRAME_TIME + 1e-3
        and ticks.sum(1).max() <= budget(n) / FRAME_TIME + 1e-2
    )
    assert (ticks - ticks.round()).abs().max() < 1e-3 and ticks.std(0).min() > 8
    assert ticks.mean(0).std() < 1.5  # no frame is favoured


def test_candidates_of_the_paper():
    assert (candidates(4) / FRAME_TIME).round().tolist() == [
        [8] * 4,
        [16] * 4,
        [24] * 4,
        [32] * 4,
        [8, 16, 24, 32],
    ]
    assert candidates(8).shape == (5, 8) and candidates(8).sum(1).max() <= budget(8) + 1e-6


def test_warm_up_loss_is_in_ticks():
    assert (
        abs(warm_up_loss(torch.full((2, 4), 10 * FRAME_TIME), torch.full((2, 4), 13 * FRAME_TIME)).item() - 3)
        < 1e-4
    )


def test_labels_ask_for_light_where_nothing_moves_and_for_speed_where_much_does():
    at = lambda speed: torch.arange(24.0) - 4 - speed * torch.arange(228)[:, None]
    edge = lambda speed: collect(
        (0.1 + 0.4 * torch.sigmoid(2 * at(speed)))[None, :, None, None].expand(1, 228, 4, 24, 24)
    )
    for speed, first in ((0.0, 32), (0.15, 8)):
        errors = candidate_errors(
            MeanRestorer(), Simulator(), edge(speed), torch.tensor([100.0]), candidates(4), (0,)
        )
        assert (
            errors.shape == (1, 5)
            and round((candidates(4)[errors[0].argmin()][0] / FRAME_TIME).item()) == first
        )


def test_the_same_draws_for_every_candidate():
    light = collect(torch.full((1, 228, 4, 8, 8), 0.3))
    errors = candidate_errors(
        MeanRestorer(), Simulator(), light, torch.tensor([500.0]), candidates(4)[[1, 1]], (3,)
    )
    assert errors[0, 0] == errors[0, 1]


def test_gradients_reach_the_policy_and_agree_with_differences(stores):
    policy, restorer = OnePolicy([10.3, 20.6, 30.2, 40.4]), MeanRestorer()
    loss = lambda: debir_loss(policy, restorer, stores["baenet"], Simulator(), 4, generator(1))[0]
    loss().backward()
    with torch.no_grad():
        for i, grad in enumerate(policy.ticks.grad.tolist()):
            ends = []
            for step in (0.2, -0.4):
                policy.ticks[i] += step
                ends.append(loss().item())
            policy.ticks[i] += 0.2
            assert abs((ends[0] - ends[1]) / 0.4 - grad) < 3e-5 + 0.1 * abs(grad)


def test_debir_loss_reports_exposures_in_ticks(stores):
    _, report = debir_loss(bracket(4), MeanRestorer(), stores["baenet"], Simulator(), 3, generator(0))
    assert [round(report[f"t{i}"]) for i in range(1, 5)] == [8, 24, 40, 56] and report["t1_std"] < 1e-4


def test_pretraining_loss_moves_the_restorer(stores):
    restorer = MeanRestorer()
    loss, _ = pretraining_loss(
        restorer, stores["restore"], Simulator(EqualBrightness(jitter=True)), [4], 3, generator(0)
    )
    loss.backward()
    assert loss > 0 and restorer.brightness.grad.abs() > 0


def test_evaluation_is_repeatable_and_pairs_scenes(stores):
    a, b = (
        evaluate(bracket(4), MeanRestorer(), stores["test"], Simulator(), seed=3, border=4) for _ in range(2)
    )
    assert a == b and len(a["psnr"]) == 4 and [round(t) for t in a["exposures"][0]] == [8, 24, 40, 56]
    long = evaluate(
        Fixed(torch.full((4,), 32 * FRAME_TIME)),
        MeanRestorer(),
        stores["test"],
        Simulator(),
        seed=3,
        border=4,
    )
    assert long["gain"] == a["gain"] and long["motion"] == a["motion"] and long["psnr"] != a["psnr"]
    assert (
        evaluate(bracket(4), MeanRestorer(), stores["test"], Simulator(), seed=4, border=4)["gain"]
        != a["gain"]
    )


class Broken(MeanRestorer):
    "Fails on every third burst."

    calls = 0

    def forward(self, burst):
        self.calls += 1
        return super().forward(burst) * (float("nan") if self.calls == 3 else 1)


def test_threads_score_what_one_would_in_the_same_order(stores):
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(evaluate(bracket(4), MeanRestorer(), stores["test"], Simulator(), seed=3, border=4))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    one, shared = found
    assert one["clip"] == shared["clip"] == stores["test"].column("clip") and one["gain"] == shared["gain"]
    for name in ("motion", "exposures", "psnr", "srgb_ssim"):
        np.testing.assert_allclose(shared[name], one[name], atol=1e-4, rtol=0)


def test_a_restoration_that_is_not_a_number_stops_the_evaluation_and_names_the_scene(stores):
    clip = stores["test"].table[2]["clip"]
    with pytest.raises(
        ValueError, match=rf"the restoration of scene 2 \({clip}\) holds \d+ values that are not finite"
    ):
        evaluate(bracket(4), Broken(), stores["test"], Simulator(), seed=3, border=4)


def test_a_score_that_is_not_a_number_stops_the_evaluation_too(stores):
    with pytest.raises(ValueError, match="lpips of scene 0 .* is nan: look at that scene"):
        evaluate(
            bracket(4),
            MeanRestorer(),
            stores["test"],
            Simulator(),
            seed=3,
            border=4,
            perceptual=lambda x, y: torch.tensor([float("nan")]),
        )


def test_a_perceptual_distance_is_scored_on_demosaicked_frames(stores):
    columns = evaluate(
        bracket(4),
        MeanRestorer(),
        stores["test"],
        Simulator(),
        seed=3,
        border=4,
        perceptual=lambda x, y: (x - y).abs().mean((1, 2, 3)),
    )
    assert len(columns["lpips"]) == 4 and all(0 < d < 0.3 for d in columns["lpips"])


def test_scenes_are_checked_before_anything_is_computed(stores, tmp_path):
    folder = stores["test"].folder.parent
    assert len(open_scenes(folder, "test", 4)) == 4
    for n, words in (
        (3, "n_frames is 3: frames are fused in pairs"),
        (0, "n_frames is 0"),
        (6, "n_frames is 6: its budget asks for 306 ticks and the scenes .* last 228"),
    ):
        with pytest.raises(ValueError, match=words):
            open_scenes(folder, "test", n)
    rows = (folder / "scenes.csv").read_text().splitlines()
    (tmp_path / "scenes.csv").write_text("\n".join(row for row in rows if not row.startswith("test")))
    with pytest.raises(ValueError, match="holds no scene for the split 'test': raise n_test"):
        open_scenes(tmp_path, "test", 4)
    with pytest.raises(ValueError, match="store holds no scenes"):
        evaluate(bracket(4), MeanRestorer(), SceneStore(tmp_path, "test"), Simulator(), seed=0)


def test_errors_of_one_vector_are_those_of_the_candidates(stores):
    light, gain = stores["test"].light(torch.arange(2)), torch.tensor([600.0, 900.0])
    errors = candidate_errors(MeanRestorer(), Simulator(), light, gain, candidates(4), (5,))
    own = restoration_errors(MeanRestorer(), Simulator(), light, gain, candidates(4)[3].expand(2, -1), (5,))
    assert torch.equal(errors[:, 3], own)


# Several processes


def losses_in_double(folder, out):
    """The first losses of every stage that trains, with all arithmetic in double precision; what single
    precision rounds away, AdamW's first steps amplify.
    """
    stores, simulator, in_single = (
        {split: SceneStore(folder, split) for split in ("restore", "baenet")},
        Simulator(EqualBrightness(jitter=True)),
        StoredLight.sums,
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    restorer, baenet = Burstormer(2, 4, 4, 8), BAENet(2)

    def warm_up(model, draws, step):
        index, light, gain = draw_scenes(stores["baenet"], 2, draws, torch.device("cpu"))
        return (
            warm_up_loss(
                model(*observe(simulator, light, gain, stores["baenet"].colour(index), draws)),
                random_exposures(2, 2, draws),
            ),
            {},
        )

    trainings = {
        "S1": (
            restorer,
            lambda model, draws, step: pretraining_loss(model, stores["restore"], simulator, [2], 2, draws),
        ),
        "S2-1": (baenet, warm_up),
        "S2-2": (
            baenet,
            lambda model, draws, step: debir_loss(
                model, restorer.eval().requires_grad_(False), stores["baenet"], simulator, 2, draws
            ),
        ),
        "S3": (
            restorer,
            lambda model, draws, step: debir_loss(
                baenet.requires_grad_(False), model, stores["restore"], simulator, 2, draws
            ),
        ),
    }
    with patch.object(StoredLight, "sums", lambda self, k: in_single(self, k).double()):
        for name, (model, loss) in trainings.items():
            model.train(name == "S2-1").requires_grad_()
            history = fit(
                model, loss, steps=3, lr=1e-3, lr_final=1e-5, clip=1.0, seed=0, out=Path(out) / name, every=1
            )
            with open(Path(out) / f"{name}.json", "w") as file:
                json.dump([row["loss"] for row in history], file)  # the second process writes the same


TOGETHER = """
import sys
sys.path.insert(0, sys.argv[1])
from accelerate import notebook_launcher
from test_stages import losses_in_double
notebook_launcher(losses_in_double, (sys.argv[2], sys.argv[3]), num_processes=2, use_port=sys.argv[4])
"""


def test_two_processes_give_the_losses_of_one_to_the_last_digits(stores, tmp_path):
    folder, (one, two) = stores["restore"].folder.parent, (tmp_path / name for name in ("one", "two"))
    for place in (one, two):
        place.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", TOGETHER, Path(__file__).parent, folder, two, str(port)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    try:
        losses_in_double(folder, one)
    finally:
        torch.set_num_threads(threads), torch.set_default_dtype(torch.float32)
    for name in ("S1", "S2-1", "S2-2", "S3"):
        alone, together = (json.loads((place / f"{name}.json").read_text()) for place in (one, two))
        assert len(set(alone)) == 3 and together == pytest.approx(alone, rel=1e-8), name
