"Scores from files, differences in pairs, verdicts from intervals."

import json

import numpy as np
import pytest

from debir_nb.scoring.verdicts import PAPER, compare, read_scores, verdict, verdict_of_all


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
    broken = scores()
    broken["ssim"][17] = value
    write(tmp_path, "broken", broken)
    with pytest.raises(ValueError, match="broken.json: ssim of scene 17 is not a number"):
        read_scores(tmp_path, "broken")


@pytest.mark.parametrize(
    "shift, state", [(1.0, "reproduced"), (-1.0, "not reproduced"), (0.0, "inconclusive")]
)
def test_verdicts(shift, state):
    assert verdict(compare(scores(shift, seed=1), scores())) == state


def test_other_scenes_or_gains_are_refused():
    other = scores() | {"gain": scores()["gain"] + 5}
    for theirs in (scores(n=30), other):
        with pytest.raises(ValueError, match="evaluate both on the same scenes"):
            compare(scores(), theirs)


def test_a_claim_of_parts():
    up, down, none = ({"low": low, "high": high} for low, high in ((0.1, 0.4), (-0.5, -0.1), (-0.1, 0.1)))
    for found, state in (
        ([up, up], "reproduced"),
        ([up, None], "not run"),
        ([down, None], "not reproduced"),
        ([up, none], "inconclusive"),
    ):
        assert verdict_of_all(found) == state


def test_figures_of_the_paper():
    "Differences to DEBIR as the text of the paper states them."
    assert (
        round(PAPER["baenet"] - PAPER["bracket"], 2) == 0.28
        and round(PAPER["baenet"] - PAPER["uniform"], 2) == 0.31
    )
    assert [round(PAPER[f"baenet-n{n}"] - PAPER[f"bracket-n{n}"], 2) for n in (2, 6, 8)] == [0.63, 0.15, 0.22]
    assert (
        max(PAPER[k] for k in PAPER if not k.startswith(("baenet-n", "bracket-n"))) == PAPER["baenet"]
        and min(PAPER[k] for k in PAPER if k not in ("bracket-n2",)) == PAPER["E2E"]
    )
