"What every exposure policy promises, and what each of them claims about itself."

import pytest
import torch

from debir_nb.core import FRAME_TIME, PREVIEW_TIME, T_MIN, budget, generator
from debir_nb.policies.by_name import fresh_policy, learned_policy
from debir_nb.policies.metering import AverageAE, GradientAE, MotionMetering, gradient_information
from debir_nb.policies.rivals import WITHHELD, ActiveSL, DigitalGimbal, Uniform, Withhold, exposure_pairs
from debir_nb.policies.rules import Fixed, Random, bracket
from debir_nb.policies.words import LEARNED, RULES

POLICIES = RULES | LEARNED
NEED_NO_PREVIEW = {"bracket", "gimbal", "no_preview"}


def seen(batch, key=0):
    draws = generator(11, key)
    return (
        torch.rand(batch, 4, 32, 32, generator=draws),
        512 + 512 * torch.rand(batch, generator=draws),
        12 * torch.rand(batch, generator=draws),
    )


def make(name, n):
    torch.manual_seed(0)
    policy = fresh_policy(name, n)
    return policy.eval() if isinstance(policy, torch.nn.Module) else policy


def wild(policy):
    "The same policy with weights that saturate its outputs."
    if isinstance(policy, torch.nn.Module):
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(30).add_(torch.randn(parameter.shape, generator=generator(5)))
    return policy


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("n", [2, 4, 8])
def test_every_policy_keeps_t_min_and_the_budget(name, n):
    if name == "active" and n != 2:
        pytest.skip("Active S-L takes two frames")
    for policy in (make(name, n), wild(make(name, n))):
        with torch.no_grad():
            times = policy(*seen(6))
        assert (
            times.shape == (6, n)
            and times.min() >= T_MIN * (1 - 1e-5)
            and times.sum(1).max() <= budget(n) * (1 + 1e-5)
        )


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_a_function_of_each_scene_alone(name):
    policy, (preview, gain, motion) = make(name, 2), seen(5)
    with torch.no_grad():
        whole = policy(preview, gain, motion)
        assert torch.equal(whole, policy(preview, gain, motion))
        alone = torch.cat([policy(preview[i : i + 1], gain[i : i + 1], motion[i : i + 1]) for i in range(5)])
    assert torch.allclose(whole, alone, atol=1e-3 * FRAME_TIME)


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - NEED_NO_PREVIEW))
def test_a_missing_preview_is_named(name):
    with pytest.raises(ValueError, match="preview is None: this policy looks at the preview"):
        make(name, 2)(None, *seen(2)[1:])


def test_without_the_preview_none_is_needed():
    assert make("no_preview", 4)(None, *seen(3)[1:]).shape == (3, 4)


@pytest.mark.parametrize(
    "n, ticks", [(2, [8, 56]), (4, [8, 24, 40, 56]), (8, [8 + 48 * i / 7 for i in range(8)])]
)
def test_brackets_of_the_paper(n, ticks):
    times = bracket(n)(torch.rand(3, 4, 8, 8), torch.ones(3), torch.ones(3))
    assert torch.allclose(times / FRAME_TIME, torch.tensor(ticks).float().expand(3, n))
    assert abs(times.sum(1)[0].item() - budget(n)) < 1e-6 and abs(times[0, 0].item() - T_MIN) < 1e-7


@pytest.mark.parametrize("n", [0, 1])
def test_a_bracket_of_fewer_than_two_frames(n):
    with pytest.raises(ValueError, match=f"n_frames is {n}"):
        bracket(n)


def test_fixed_exposures_must_be_possible():
    with pytest.raises(ValueError, match="below t_min"):
        Fixed(torch.tensor([1.0, 10]) * FRAME_TIME)
    with pytest.raises(ValueError, match="over the budget"):
        Fixed(torch.tensor([40.0, 40]) * FRAME_TIME)


def test_random_exposures_differ_between_previews_and_seeds():
    times = Random(4)(*seen(50))
    assert len(times.unique(dim=0)) == 50 and not torch.equal(times, Random(4, seed=1)(*seen(50)))


# Metering


@pytest.mark.parametrize("brightness", [0.1, 0.15, 0.2, 0.3])
def test_average_ae_brings_the_mean_to_grey(brightness):
    preview = torch.full((1, 4, 8, 8), brightness)
    time = AverageAE(4)(preview, torch.ones(1), torch.ones(1))[0, 0].item()
    assert abs(time / PREVIEW_TIME * brightness - 0.18) < 1e-6


def test_gradient_ae_exposes_a_dark_texture_longer_than_a_bright_one():
    texture = torch.nn.functional.interpolate(torch.rand(1, 1, 8, 8, generator=generator(1)), 32).expand(
        1, 4, -1, -1
    )
    dark, bright = (
        GradientAE(4)(x, torch.ones(1), torch.ones(1))[0, 0] / FRAME_TIME
        for x in (0.15 * texture, 0.6 + 0.4 * texture)
    )
    assert dark > 16 > bright


def test_gradient_information_ignores_what_lies_below_its_activation():
    ramp = torch.linspace(0, 1, 21).expand(1, 8, 21)
    assert gradient_information(ramp) == 0 and gradient_information(ramp, activation=0.04) > 0


def test_motion_metering_follows_its_power_laws():
    def time(motion, gain):
        return MotionMetering(4)(torch.rand(1, 4, 8, 8), torch.tensor([gain]), torch.tensor([motion]))[
            0, 0
        ].item()

    assert (
        abs(time(2.0, 600.0) / time(4.0, 600.0) - 2 ** (2 / 3)) < 1e-4
        and abs(time(3.0, 1024.0) / time(3.0, 512.0) - 2 ** (1 / 3)) < 1e-4
    )
    assert abs(time(0.0, 600.0) - budget(1)) < 1e-7


# Learned policies


@pytest.mark.parametrize("hidden", WITHHELD)
def test_what_is_withheld_changes_nothing(hidden):
    torch.manual_seed(0)
    # batch statistics, so that a fresh network answers at all
    policy, k = Withhold(4, hidden).train(), WITHHELD.index(hidden)
    policy.net.mobilenet.classifier[0].p = 0.0
    mine, other = seen(8), seen(8, 1)
    with torch.no_grad():
        moved = [
            (policy(*[other[j] if j == i else mine[j] for j in range(3)]) - policy(*mine)).abs().max().item()
            for i in range(3)
        ]
    assert moved[k] == 0 and min(m for i, m in enumerate(moved) if i != k) > 1e-2 * FRAME_TIME


def test_uniform_repeats_one_time_and_learns():
    policy = Uniform(6)
    times = policy(*seen(4))
    assert times.shape == (4, 6) and (times == times[:, :1]).all()
    times.sum().backward()
    assert policy.mobilenet.classifier[1].weight.grad.abs().sum() > 0


def test_digital_gimbal_is_blind_and_reaches_any_possible_burst():
    gimbal, aim = DigitalGimbal(4), torch.tensor([8.5, 60.0, 20.0, 30.0])
    optimiser = torch.optim.AdamW(gimbal.parameters(), lr=6e-4, weight_decay=0)
    anything = seen(1)
    for _ in range(500):
        loss = (gimbal(*anything)[0] / FRAME_TIME - aim).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 1 and (gimbal(*seen(5)) == gimbal(*seen(5, 3))).all()


def test_active_answers_with_its_pairs_only():
    torch.manual_seed(2)
    times = wild(ActiveSL().eval())(*seen(20))
    assert all((exposure_pairs() == t).all(1).any() for t in times)


@pytest.mark.parametrize(
    "bad, words",
    [
        (lambda: learned_policy("oracle", 4), "policy is 'oracle': choose one of"),
        (lambda: ActiveSL(4), "n_frames is 4: Active S-L"),
        (lambda: Withhold(4, "colour"), "hidden is 'colour'"),
        (lambda: AverageAE(4, grey=2.0), "grey is 2.0"),
        (lambda: MotionMetering(4, blur=-1.0), "blur is -1.0"),
        (
            lambda: GradientAE(4)(torch.rand(1, 3, 8, 8), torch.ones(1), torch.ones(1)),
            "takes \\(b, 4, h, w\\)",
        ),
        (lambda: MotionMetering(4)(torch.rand(2, 4, 8, 8), torch.ones(1), torch.ones(2)), "gain has shape"),
    ],
)
def test_bad_input(bad, words):
    with pytest.raises(ValueError, match=words):
        bad()
