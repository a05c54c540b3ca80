"The explorers without a browser: a changed value changes picture and number, and what is impossible is said."

import json
from pathlib import Path

import pytest
import torch
import yaml
from debir_nb.restorers.mean import weighted_mean

from debir_nb.core import FRAME_TIME, generator
from debir_nb.explore.beat_baenet import BeatBAENet, deal
from debir_nb.explore.gradient import Gradient, tangent
from debir_nb.explore.live import SPEEDS, UNSEEN, blur, restore, score, take, to_seconds, unseen_scene
from debir_nb.explore.policy_map import PolicyMap, at_hand
from debir_nb.explore.shutter import Shutter, landscape
from debir_nb.policies.baenet import BAENet, recalibrate_batchnorm
from debir_nb.policies.rules import bracket

ROOT = Path(__file__).resolve().parents[1]


class Mean(torch.nn.Module):
    """The mean of the frames, weighted by their inverse variance: quick, and every frame counts. The
    notebooks have the trained Burstormer.
    """

    def forward(self, burst):
        return weighted_mean(burst.frames, burst.noise_std)


@pytest.fixture(scope="module")
def networks():
    "An untrained BAENet that answers differently for each preview, and a restorer."
    torch.manual_seed(0)
    baenet = BAENet().eval()
    torch.nn.init.normal_(baenet.mobilenet.classifier[1].weight, std=0.05)
    recalibrate_batchnorm(
        baenet,
        lambda: baenet(
            torch.rand(8, 4, 64, 64, generator=generator(2)),
            torch.linspace(512, 1024, 8),
            torch.linspace(0, 10, 8),
        ),
    )
    return baenet, Mean()


def make(kind, networks):
    baenet, restorer = networks
    return {
        "shutter": lambda: Shutter(baenet, restorer),
        "gradient": lambda: Gradient(restorer),
        "beat": lambda: BeatBAENet(baenet, restorer),
        "policy": lambda: PolicyMap({"BAENet": baenet, "bracket": bracket(4)}),
    }[kind]()


CHANGES = [
    ("shutter", "t1", 20),
    ("shutter", "t4", 60),
    ("shutter", "gain", 900),
    ("shutter", "speed", 4.0),
    ("shutter", "photograph", "coins"),
    ("gradient", "t", 30),
    ("gradient", "frame", 3),
    ("gradient", "gain", 1024),
    ("gradient", "speed", 0.0),
    ("gradient", "photograph", "coins"),
    ("beat", "t1", 24),
    ("beat", "t3", 40),
    ("policy", "motion", 9),
    ("policy", "gain", 1000),
    ("policy", "photograph", "coins"),
]


@pytest.fixture(scope="module")
def explorers(networks):
    return {kind: make(kind, networks) for kind in ("shutter", "gradient", "beat", "policy")}


@pytest.mark.parametrize("kind, control, value", CHANGES)
def test_a_change_of_value_changes_picture_and_number(explorers, kind, control, value):
    explorer = explorers[kind]
    picture, number, before = (
        bytes(explorer.picture.value),
        explorer.number.value,
        explorer.controls[control].value,
    )
    explorer.controls[control].value = value
    changed = bytes(explorer.picture.value)
    assert changed[:4] == b"\x89PNG" and changed != picture
    assert explorer.number.value.split("</b>")[0] != number.split("</b>")[0]
    assert "Not possible" not in explorer.number.value
    explorer.controls[control].value = before
    assert bytes(explorer.picture.value) == picture  # the same settings, the same picture


@pytest.mark.parametrize("kind", ["shutter", "beat"])
def test_a_burst_over_the_budget_is_answered_and_leaves_the_explorer_usable(explorers, kind):
    explorer = explorers[kind]
    before = {name: control.value for name, control in explorer.controls.items()}
    explorer.set(t1=64, t2=64, t3=64)
    assert "Not possible" in explorer.number.value and "budget" in explorer.number.value
    explorer.set(**before)
    assert "Not possible" not in explorer.number.value


def test_the_number_is_the_psnr_of_the_restored_burst(explorers, networks):
    explorer = explorers["shutter"]
    scene, exposures = unseen_scene("astronaut", 1.0), to_seconds([8, 16, 24, 32])
    assert (
        f"{score(restore(networks[1], take(scene, exposures[None], 700.0)), scene).item():.2f} dB"
        in explorer.number.value
    )


def test_the_landscape_holds_the_same_numbers_and_nothing_over_the_budget(networks):
    scene, axis, rest = unseen_scene("coins", 1.0), to_seconds([8, 40, 64]), to_seconds([16, 16])
    found = landscape(networks[1], scene, 700.0, rest, axis)
    assert found[1, 0] == pytest.approx(
        score(restore(networks[1], take(scene, to_seconds([8, 40, 16, 16])[None], 700.0)), scene).item(),
        abs=1e-3,
    )
    assert (found != found).tolist() == [[False, False, False], [False, False, True], [False, True, True]]


def test_blur_is_the_way_of_the_hand():
    "The same path at twice the speed is twice as long; the ways of two halves sum to the way of the whole."
    slow, fast = (unseen_scene("coins", speed) for speed in (1.0, 2.0))
    t = to_seconds([16, 24])
    assert torch.allclose(blur(fast, t), 2 * blur(slow, t), rtol=0.01)
    whole = blur(slow, to_seconds([32])).item()
    assert blur(slow, to_seconds([16])).item() < whole < 2 * blur(slow, to_seconds([31])).item()


def test_the_tangent_is_the_slope_of_the_loss(networks):
    scene, t, step = unseen_scene("coffee", 1.0), to_seconds([12.5, 16.5, 20.5, 24.5]), 0.04
    slope = tangent(networks[1], scene, t, 700.0).slope
    for i, move in enumerate(step * FRAME_TIME * torch.eye(4)):
        longer, shorter = (tangent(networks[1], scene, t + sign * move, 700.0).loss for sign in (1, -1))
        assert slope[i].item() == pytest.approx((longer - shorter) / (2 * step), rel=0.1, abs=1e-5)


def test_a_step_goes_against_the_slope_and_stays_within_the_limits(networks):
    explorer = make("gradient", networks)
    t, slope = explorer.controls["t"].value, explorer.slope
    explorer.controls["rate"].value = 1 / abs(slope) if 1e3 < 1 / abs(slope) < 1e6 else 1e4
    rate = explorer.controls["rate"].value
    explorer.step()
    assert (
        explorer.controls["t"].value == pytest.approx(min(64, max(8, t - rate * slope)), abs=0.13)
        and len(explorer.visited) == 1
    )
    explorer.controls["speed"].value = 4.0
    assert not explorer.visited  # another curve, another path


def test_the_policy_is_asked_and_its_answer_is_shot(explorers):
    explorer = explorers["shutter"]
    explorer.ask()
    chosen = [explorer.controls[f"t{i}"].value for i in range(1, 5)]
    assert sum(chosen) <= 128 and min(chosen) >= 8 and f"{sum(chosen)} of 128" in explorer.number.value
    explorer.set(t1=8, t2=16, t3=24, t4=32)


def test_a_round_is_scored_once_and_the_oracle_is_hardly_behind_anybody(networks):
    explorer = make("beat", networks)
    explorer.shoot()
    numbers = [
        float(title.get_text().split("\n")[1].split()[0]) for title in explorer.live.pictures.titles[1:5]
    ]
    assert (
        explorer.played == 1
        and explorer.won == (numbers[0] > numbers[1])
        and numbers[3] > max(numbers[:3]) - 0.1
    )
    assert explorer.bar.value == explorer.bar.max and f"{numbers[3]:.2f} dB" in explorer.number.value
    explorer.shoot()
    assert explorer.played == 1
    explorer.deal_next()
    assert "Shoot when" in explorer.number.value and explorer.bar.value == 0


def test_rounds_differ_and_come_back():
    (a, gain_a), (b, gain_b), (again, gain_again) = deal(3), deal(4), deal(3)
    assert (
        gain_a == gain_again != gain_b
        and torch.equal(a.target, again.target)
        and not torch.equal(a.target, b.target)
    )


def test_policies_that_were_not_trained_are_left_out(tmp_path):
    names = at_hand(tmp_path)
    assert "bracket" in names and "best fixed" not in names
    torch.save(bracket(4).exposures, tmp_path / "fixed.pt")
    assert "best fixed" in at_hand(tmp_path)


def test_the_scenes_are_of_the_test_split():
    table = ROOT / "data/footage.yaml"
    if not table.exists():
        pytest.skip("data/ is not here: dvc pull data.dvc")
    split = {
        line["source"]: line["split"]
        for line in yaml.safe_load(table.read_text()).values()
        if "source" in line
    }
    assert {split[name] for name in UNSEEN} == {"test"}


def test_no_widget_is_committed():
    "Without a kernel a widget is an error message; the figure in the cell before stands for it."
    for path in sorted((ROOT / "nbs").rglob("[!.]*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        shown = [
            output
            for output in outputs
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
        ]
        assert not shown and "widgets" not in notebook["metadata"], (
            f"{path.name} holds a widget: clear the output of the cell that shows it"
        )


def test_the_hand_has_every_speed():
    assert SPEEDS[0] == 0 and list(SPEEDS) == sorted(set(SPEEDS))
