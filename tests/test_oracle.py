"The oracle's search, where the best exposures are known or can be tried whole."

from math import comb

import pytest
import torch
from debir_nb.restorers.mean import weighted_mean

from debir_nb.core import FRAME_TIME, T_MIN, budget
from debir_nb.light.sensor import EqualBrightness
from debir_nb.light.simulator import Simulator, collect
from debir_nb.policies.rules import bracket
from debir_nb.scoring.search import lattice, moves, oracle, restoration_errors


def mean_restorer(burst):
    return weighted_mean(burst.frames, burst.noise_std)


def scenes(speeds, size=10):
    at = torch.arange(float(size)) - torch.tensor(speeds).view(-1, 1, 1) * torch.arange(228.0)[:, None]
    return collect(
        (0.3 + 0.15 * torch.sin(0.8 * at) + 0.1 * torch.sin(0.37 * at))[:, :, None, None].expand(
            -1, -1, 4, size, -1
        )
    )


@pytest.mark.parametrize("n, step", [(2, 8), (4, 16), (6, 48), (8, 96)])
def test_a_lattice_is_complete_and_possible(n, step):
    vectors = lattice(n, step) / FRAME_TIME
    assert len(vectors) == comb(24 * n // step + n, n) == len(vectors.round().unique(dim=0))
    assert vectors.min() >= 8 - 1e-3 and vectors.sum(1).max() <= 32 * n + 1e-2


def test_a_static_scene_uses_the_budget_and_a_fast_one_does_not():
    best, _ = oracle(mean_restorer, Simulator(), scenes([0.0, 0.04]), torch.tensor([100.0, 100.0]), 4, (0,))
    still, fast = (best / FRAME_TIME).sum(1).tolist()
    assert still > 124 and fast < 60
    assert best.min() >= T_MIN * (1 - 1e-4) and best.sum(1).max() <= budget(4) * (1 + 1e-4)


def test_never_behind_its_lattice_and_no_move_helps():
    light, gain, simulator = scenes([0.0, 0.01, 0.03]), torch.tensor([60.0, 300.0, 900.0]), Simulator()
    best, error = oracle(mean_restorer, simulator, light, gain, 2, (4,))
    for vector in [*lattice(2, 16), bracket(2).exposures]:
        assert (
            error
            <= restoration_errors(mean_restorer, simulator, light, gain, vector.expand(3, -1), (4,)) + 1e-12
        ).all()
    for move in moves(2):
        there = best + 4 * FRAME_TIME * move
        possible = (there.min(1).values >= T_MIN * (1 - 1e-4)) & (there.sum(1) <= budget(2) * (1 + 1e-4))
        found = restoration_errors(
            mean_restorer, simulator, light, gain, torch.where(possible[:, None], there, best), (4,)
        )
        assert (found >= error - 1e-12).all()


def test_scenes_of_a_batch_do_not_see_each_other():
    gain = torch.tensor([100.0, 100.0])
    together, _ = oracle(
        lambda burst: burst.frames[:, 0],
        Simulator(EqualBrightness(lambda g: (0 * g, 0 * g + 1e-12))),
        scenes([0.0, 0.05]),
        gain,
        2,
        (0,),
        step=24,
        finest=12,
    )
    alone, _ = oracle(
        lambda burst: burst.frames[:, 0],
        Simulator(EqualBrightness(lambda g: (0 * g, 0 * g + 1e-12))),
        scenes([0.05]),
        gain[:1],
        2,
        (0,),
        step=24,
        finest=12,
    )
    # without noise, the shortest first frame is the sharpest
    assert torch.allclose(together[1], alone[0]) and abs(together[1, 0].item() / FRAME_TIME - 8) < 1e-3


def test_bad_steps():
    with pytest.raises(ValueError, match="finest is 8 and step 4"):
        oracle(mean_restorer, Simulator(), scenes([0.0]), torch.ones(1), 2, (0,), step=4, finest=8)
    with pytest.raises(ValueError, match="step is 0"):
        lattice(4, 0)
