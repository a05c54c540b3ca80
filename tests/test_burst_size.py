"How many frames and how long each: budgets, bills and gradients."

import pytest
import torch

from debir_nb.core import FRAME_GAP, T_MIN
from debir_nb.policies.burst_size import RANGES, BurstSize, Cost, Terms, expected, random_terms, stop_chances
from debir_nb.training.priced_loss import errors_by_number


@pytest.mark.parametrize("seed", range(6))
def test_no_beginning_of_a_burst_breaks_its_budget_whatever_the_weights(seed):
    torch.manual_seed(seed)
    policy, draws = BurstSize(8).eval(), torch.Generator().manual_seed(seed)
    for p in policy.parameters():
        p.data.add_(torch.randn_like(p) * 10 ** (seed - 4))
    terms = random_terms(16, draws)
    terms = Terms(terms.budget.clone(), terms.second, terms.joule)
    terms.budget[:3] = torch.tensor([T_MIN, 2 * T_MIN + FRAME_GAP, 1.0])
    with torch.no_grad():
        times, chances = policy.plan(
            torch.rand(16, 4, 32, 32), 600 + 10 * torch.rand(16), torch.rand(16), terms
        )
        taken = policy(torch.rand(16, 4, 32, 32), 600 + 10 * torch.rand(16), torch.rand(16), terms)
    lasts = policy.cost.time(times).masked_fill(times == 0, 0)
    assert (lasts <= terms.budget[:, None] + 1e-6).all() and (times[times > 0] >= T_MIN - 1e-9).all()
    assert (times[:3] > 0).sum(1).tolist() == [1, 2, 8] and (chances[times == 0] == 0).all()
    assert chances.sum(1).tolist() == pytest.approx([1] * 16, abs=1e-5)
    number = (taken > 0).sum(1)
    assert (number >= 1).all() and all((row[:k] > 0).all() for row, k in zip(taken, number))


def test_a_bill_is_time_and_energy_by_hand():
    cost = Cost(gap=0.004, power=0.2, frame=0.005)
    times = torch.tensor([[0.01, 0.02, 0.03]])
    assert cost.time(times)[0].tolist() == pytest.approx([0.01, 0.034, 0.068])
    energy = [0.2 * 0.01 + 0.005, 0.2 * 0.034 + 0.01, 0.2 * 0.068 + 0.015]
    assert cost.energy(times)[0].tolist() == pytest.approx(energy)
    bill = Terms(torch.ones(1), torch.tensor([3.0]), torch.tensor([7.0])).bill(cost, times)
    assert bill[0].tolist() == pytest.approx([3 * t + 7 * e for t, e in zip((0.01, 0.034, 0.068), energy)])


def test_the_gradient_of_the_stops_is_that_of_the_enumerated_expectation():
    torch.manual_seed(0)
    logits, values = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    most = torch.tensor([7, 5, 2, 1, 7])
    mean = lambda s: expected(stop_chances(s, most), values).sum()
    assert torch.autograd.gradcheck(mean, logits.clone().requires_grad_())
    gradient = torch.autograd.functional.jacobian(mean, logits)
    assert gradient[2, 1:].eq(0).all() and gradient[3].eq(0).all() and gradient[2, 0] != 0


def test_what_cannot_happen_does_not_count_even_where_it_is_infinite():
    values = torch.tensor([[1.0, torch.inf]])
    assert expected(torch.tensor([[1.0, 0.0]]), values).tolist() == [1.0]


def test_the_conditions_that_it_learns_from_fill_their_range():
    terms = random_terms(4000, torch.Generator().manual_seed(0))
    low, high = RANGES["budget"]
    assert low <= terms.budget.min() < 1.02 * low and 0.98 * high < terms.budget.max() <= high
    middle = (low * high) ** 0.5
    assert (terms.budget < middle).float().mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"budget": torch.tensor([0.001])}, "budget is 1 ms: the shortest frame takes 4.17 ms"),
        ({"second": torch.tensor([-1.0])}, "second is -1 at least: give finite numbers of 0 or more"),
        ({"joule": torch.tensor([torch.nan])}, "joule is nan"),
        ({"joule": torch.ones(2)}, r"joule has shape \(2,\): give one number per preview, \(1,\)"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(change, words):
    terms = Terms(**{"budget": torch.ones(1), "second": torch.ones(1), "joule": torch.ones(1)} | change)
    with pytest.raises(ValueError, match=words):
        BurstSize()(torch.rand(1, 4, 32, 32), torch.tensor([600.0]), torch.zeros(1), terms)


def test_a_restorer_of_some_numbers_only_is_refused():
    class Fours(torch.nn.Module):
        frames_taken = (4,)

    from debir_nb.light.sensor import still_burst

    with pytest.raises(ValueError, match=r"Fours does not take \[1, 2, 3\] frames: choose a restorer"):
        errors_by_number(Fours(), still_burst(torch.rand(1, 4, 4, 8, 8), 0.1), torch.rand(1, 4, 8, 8))
