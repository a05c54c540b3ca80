"Scores from files, differences in pairs, verdicts from intervals, and the figures of the paper."

import json
from pathlib import Path

import numpy as np
import pytest

from debir_nb.pipeline.experiments import read_experiments
from debir_nb.scoring.metrics import paired_difference
from debir_nb.scoring.verdicts import CLAIMED, MEASURED, compare, read_scores, verdict, verdict_of_all

ROOT = Path(__file__).resolve().parents[1]


def scores(shift=0.0, n=40, seed=0):
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(99).normal(30, 3, n)
    return {
        "clip": np.array([f"clip{i}" for i in range(n)]),
        "source": np.arange(n) // 8,
        "gain": np.linspace(512, 1024, n),
        "psnr": base + shift + rng.normal(0, 0.3, n),
        "ssim": base / 40,
    }


def write(folder, name, columns):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"about": {}, "columns": {k: v.tolist() for k, v in columns.items()}}))


def test_a_file_comes_back_and_a_missing_one_is_none(tmp_path):
    write(tmp_path, "debir", scores())
    assert (read_scores(tmp_path, "debir")["psnr"] == scores()["psnr"]).all() and read_scores(
        tmp_path, "rival"
    ) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_names_its_scene(tmp_path, value):
    for column in ("ssim", "exposures"):
        broken = scores() | {"exposures": np.full((40, 4), 8.0)}
        broken[column][17, ...] = value
        write(tmp_path, "broken", broken)
        with pytest.raises(ValueError, match=f"broken.json: {column} of scene 17 is not a number"):
            read_scores(tmp_path, "broken")


def test_bursts_of_different_length_share_a_table(tmp_path):
    "One column holds the exposures of a scene, as many as there are; the other columns are the same."
    for n in (2, 6):
        write(tmp_path, f"n{n}", scores(n) | {"exposures": np.full((40, n), 8.0)})
    two, six = (read_scores(tmp_path, name) for name in ("n2", "n6"))
    assert (two["exposures"].shape, six["exposures"].shape) == ((40, 2), (40, 6)) and two.keys() == six.keys()
    assert verdict(compare(six, two)) == "ahead"


@pytest.mark.parametrize("shift, which", [(1.0, 0), (-1.0, 1), (0.0, 2)])
def test_verdicts(shift, which):
    found = compare(scores(shift, seed=1), scores())
    assert verdict(found, claimed=True) == CLAIMED[which] and verdict(found) == MEASURED[which]


@pytest.mark.parametrize(
    "low, high, which", [(0.01, 0.4, 0), (-0.4, -0.01, 1), (-0.1, 0.4, 2), (0.0, 0.3, 2)]
)
def test_a_verdict_follows_from_the_interval(low, high, which):
    found = {"mean": (low + high) / 2, "low": low, "high": high}
    assert verdict(found, claimed=True) == CLAIMED[which] and verdict(found) == MEASURED[which]


def test_one_source_shows_nothing():
    assert verdict(paired_difference([3.0, 3.1], [1.0, 1.0], ["a", "a"])) == "not shown"
    assert verdict(None) == verdict(None, claimed=True) == "not run"


def test_other_scenes_or_gains_are_refused():
    other = scores() | {"gain": scores()["gain"] + 5}
    for theirs in (scores(n=30), other):
        with pytest.raises(ValueError, match="evaluate both on the same scenes"):
            compare(scores(), theirs)


def test_a_claim_of_parts():
    up, down, none = ({"low": low, "high": high} for low, high in ((0.1, 0.4), (-0.5, -0.1), (-0.1, 0.1)))
    for found, claimed, measured in (
        ([up, up], "reproduced", "ahead"),
        ([up, None], "not run", "not run"),
        ([down, None], "not reproduced", "behind"),
        ([up, none], "inconclusive", "not shown"),
    ):
        assert verdict_of_all(found, claimed=True) == claimed and verdict_of_all(found) == measured


def test_figures_of_the_paper():
    "Differences to DEBIR as the text of the paper states them."
    table = read_experiments(ROOT / "experiments.yaml")
    paper = {name: e.paper for name, e in table.items() if e.paper}
    assert round(paper["baenet"] - paper["bracket"], 2) == 0.28
    assert round(paper["baenet"] - paper["uniform"], 2) == 0.31
    assert [round(paper[f"baenet-n{n}"] - paper[f"bracket-n{n}"], 2) for n in (2, 6, 8)] == [0.63, 0.15, 0.22]
    four = {name: value for name, value in paper.items() if not table[name].n_frames}
    assert max(four, key=four.get) == "baenet" and min(four, key=four.get) == "baenet-e2e"


def test_every_experiment_of_the_paper_has_its_figure():
    for e in read_experiments(ROOT / "experiments.yaml").values():
        own = e.table == 1 and e.policy in ("motion", "random", "fixed")  # of this compendium
        assert bool(e.paper) == (bool(e.table) and not own), e.name
