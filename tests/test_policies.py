"Fixed exposures, and the layout of brackets."
import pytest
import torch

from debir_nb.core import FRAME_TIME, T_MIN, budget
from debir_nb.policies import Fixed, bracket


@pytest.mark.parametrize("n, ticks", [(2, [8, 56]), (4, [8, 24, 40, 56]), (8, [8 + 48*i/7 for i in range(8)])])
def test_brackets_of_the_paper(n, ticks):
    times = bracket(n)(torch.rand(3, 4, 8, 8), torch.ones(3), torch.ones(3))
    assert torch.allclose(times/FRAME_TIME, torch.tensor(ticks).float().expand(3, n))
    assert abs(times.sum(1)[0].item() - budget(n)) < 1e-6 and abs(times[0, 0].item() - T_MIN) < 1e-7


@pytest.mark.parametrize("n", [0, 1])
def test_a_bracket_of_fewer_than_two_frames(n):
    with pytest.raises(ValueError, match=f"n_frames is {n}"): bracket(n)


def test_fixed_exposures_must_be_possible():
    with pytest.raises(ValueError, match="below t_min"): Fixed(torch.tensor([1., 10])*FRAME_TIME)
    with pytest.raises(ValueError, match="over the budget"): Fixed(torch.tensor([40., 40])*FRAME_TIME)
