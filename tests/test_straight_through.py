"The straight-through variant: the same bursts, another gradient, and exactly which one."

import pytest
import torch

from debir_nb.core import FRAME_TIME, generator
from debir_nb.light.degradation import burst_gains
from debir_nb.light.simulator import Simulator, collect, mean_radiance
from debir_nb.light.straight_through import simulator_with, straight_through_mean


def light(key=0, frame_exposure=FRAME_TIME):
    return collect(torch.rand(1, 228, 4, 4, 4, dtype=torch.float64, generator=generator(key)), frame_exposure)


@pytest.mark.parametrize("held", [1, 8])
def test_value_is_exact_and_gradient_is_that_of_the_duration_alone(held):
    scene = light(frame_exposure=held * FRAME_TIME)
    for start, stop in ((80.3, 101.7), (90.0, 98.0), (100.9, 163.2)):
        s, e = (
            torch.tensor([[t * FRAME_TIME]], dtype=torch.float64, requires_grad=True) for t in (start, stop)
        )
        value = straight_through_mean(scene, s, e)
        torch.testing.assert_close(value, mean_radiance(scene, s, e))
        by_start, by_stop = torch.autograd.grad(value.sum(), (s, e))
        expected = value.sum().detach() / (e - s - (held - 1) * FRAME_TIME).detach()
        torch.testing.assert_close(by_stop, -expected)
        torch.testing.assert_close(by_start, expected)


def test_bursts_are_the_same_and_gradients_are_not():
    scene, gain, grads, bursts = light(1), torch.tensor([700.0], dtype=torch.float64), [], []
    for kind in ("exact", "straight_through"):
        t = torch.tensor([[20.0, 25, 30, 35]], dtype=torch.float64).mul(FRAME_TIME).requires_grad_()
        burst = simulator_with(kind).burst(scene, t, gain, generator(3))
        grads.append(torch.autograd.grad(burst.frames.square().sum(), t)[0])
        bursts.append(burst)
    torch.testing.assert_close(bursts[0].frames, bursts[1].frames)
    torch.testing.assert_close(bursts[0].noise_std, bursts[1].noise_std)
    assert (grads[0] - grads[1]).norm() > 0.1 * grads[0].norm()


def test_the_road_over_the_gains_is_exact_in_both():
    scene, gain, grads = light(2), torch.tensor([700.0], dtype=torch.float64), []
    for mean in (mean_radiance, straight_through_mean):
        t = torch.tensor([[20.0, 25, 30, 35]], dtype=torch.float64).mul(FRAME_TIME).requires_grad_()
        start = 79 * FRAME_TIME + torch.tensor([[0.0, 30, 70, 110]], dtype=torch.float64) * FRAME_TIME
        frames = (
            Simulator(mean=mean)
            .expose(scene, start, start + t.detach(), burst_gains(t, gain), generator(4))
            .frames
        )
        grads.append(torch.autograd.grad(frames.square().sum(), t)[0])
    torch.testing.assert_close(*grads)


def test_an_unknown_gradient():
    with pytest.raises(ValueError, match="gradient is 'rounded': choose exact or straight_through"):
        simulator_with("rounded")
