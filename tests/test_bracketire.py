"BracketIRE: parity with the published network, its losses and its synthetic brackets; what differs from it on purpose."

import copy
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from debir_nb.core import FRAME_TIME, generator
from debir_nb.disk import save_weights
from debir_nb.light.brackets import (
    OneIso,
    bracket_times,
    published_clean,
    published_noise,
    published_truth,
    read_out,
)
from debir_nb.light.filming import Filmed, together
from debir_nb.light.mu_law import mu_law
from debir_nb.light.radiance import hand_shake
from debir_nb.light.raw import CameraColour, pack
from debir_nb.light.sensor import Burst
from debir_nb.light.simulator import timeline
from debir_nb.light.smaller import reduced_corners, smaller
from debir_nb.restorers.by_name import fresh_restorer, load_restorer
from debir_nb.restorers.merge import Merge
from debir_nb.restorers.pyramid_flow import SPyNet, warp
from debir_nb.restorers.tmrnet import TMRNet, enlarged_planes, gamma
from debir_nb.scoring.metrics import psnr, ssim
from debir_nb.training.adaptation import (
    Adaptation,
    adapt,
    adaptation_rate,
    average,
    bracket_rate,
    supervised_loss,
)

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
needs_golden = pytest.mark.skipif(
    not (GOLDEN / "bracketire_tmrnet.npz").exists(), reason="shared/golden is missing: no parity is checked"
)
TIMES = torch.tensor([[1.0, 4, 16, 64, 256]]) / 1920  # s
GAINS = {"spynet": 1.0, "conv_offset": 1.5, "deform_conv": 3.0}


@pytest.fixture(autouse=True)
def repeatable():
    threads = torch.get_num_threads()
    torch.manual_seed(0), torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def golden(name):
    return {k: v for k, v in np.load(GOLDEN / f"bracketire_{name}.npz").items()}


def uniform(name, shape):
    "[-1, 1) of 24 bits, from the name alone (splitmix64)."
    with np.errstate(over="ignore"):
        count = np.arange(np.prod(shape), dtype=np.uint64)
        z = (np.uint64(zlib.crc32(name.encode())) << np.uint64(32)) + count + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) / 2**23 - 1).reshape(shape)


def parameter(name, shape):
    "The weight of this name in the parity cases."
    if name in ("learn_para", "up_para"):
        scale = 0.5
    elif len(shape) == 1:
        scale = 0.05
    else:
        gain = next((g for part, g in GAINS.items() if part in name), 0.5)
        scale = (3 / np.prod(shape[1:])) ** 0.5 * gain
    return torch.from_numpy((uniform(name, shape) * scale).astype(np.float32))


def weights_of(net, prefix=""):
    "What the parity cases fill a network with."
    state = {k: v for k, v in net.state_dict().items() if k != "_extra_state"}
    kept = ("spynet.mean", "spynet.std", "mean", "std")
    return {k: v if k in kept else parameter(prefix + k, tuple(v.shape)) for k, v in state.items()}


def published(features=16, scale=1):
    empty = TMRNet(features, scale=scale, residual=False)
    return TMRNet.load_published(weights_of(empty)).eval()


def bracket(light):
    "A bracket of light in the unit of its middle frame: as bright as the shortest."
    b, n = light.shape[:2]
    stop = TIMES[:, :n].cumsum(1).expand(b, -1)
    ones = torch.ones_like(stop)
    return Burst(light / 16, ones * 1e-4, ones * 1e-5, stop - TIMES[:, :n], stop)


def relative(a, b):
    a, b = (torch.as_tensor(x) for x in (a, b))
    return ((a - b).abs().max() / b.abs().max()).item()


def check_gradient(a, b):
    "In double precision, too, one in a hundred differs by more: where a sample lies on a pixel, or a slope jumps."
    apart = (a - torch.as_tensor(b)).abs() / torch.as_tensor(b).abs().max()
    assert apart.flatten().quantile(0.98) < 1e-4 and apart.max() < 1e-3


def tensor(x):
    return torch.from_numpy(np.asarray(x))


@needs_golden
def test_flow_and_warps_equal_the_published_ones():
    case, net = golden("spynet"), SPyNet()
    net.load_state_dict(weights_of(net, "spynet."))
    pair = [tensor(case[k]).requires_grad_() for k in ("ref", "supp")]
    flow = net(*pair)
    flow.square().mean().backward()
    assert relative(flow.detach(), case["flow"]) < 1e-5
    assert relative(pair[0].grad, case["grad_ref"]) < 1e-4
    assert relative(pair[1].grad, case["grad_supp"]) < 1e-4
    where = tensor(case["warp_flow"]).permute(0, 3, 1, 2)
    for outside in ("zeros", "border"):
        assert (
            warp(tensor(case["warp_x"]), where, outside) - tensor(case[f"warp_{outside}"])
        ).abs().max() < 1e-5


@needs_golden
def test_every_part_of_the_network_equals_the_published_one():
    case, net = golden("tmrnet"), published()
    light = tensor(case["input"]).requires_grad_()
    out = 16 * net(bracket(light))
    out.square().mean().backward()
    assert relative(out.detach(), case["output"]) < 1e-5
    check_gradient(light.grad, case["grad_input"])
    with torch.no_grad():
        light = light.detach()
        aligned = net.aligned_features(light)
        level = torch.arange(5).expand(2, -1)
        assert (net.flows(light) - tensor(case["flow"])).abs().max() < 1e-5 * case["offset_abs_max"]
        assert relative(net.features_of(light)[0], case["features0"]) < 1e-5
        assert relative(aligned[0], case["aligned0"]) < 1e-5
        assert relative(torch.stack(net.states(aligned, level), 1)[0], case["states0"]) < 1e-5
        assert relative(net.stages(light, level), case["stage_outputs"]) < 1e-5


@needs_golden
def test_published_size_and_names():
    case, net = golden("tmrnet_64"), published(64)
    names = json.loads(str(case["state_dict"]))
    for key, form in (("tmrnet", net), ("tmrnet_plus", TMRNet(64, scale=4, residual=False))):
        own = {k: list(v.shape) for k, v in form.state_dict().items() if k != "_extra_state"}
        assert own == dict(names[key])
    light = tensor(case["input"]).requires_grad_()
    out = 16 * net(bracket(light))
    out.square().mean().backward()
    assert relative(out.detach(), case["output"]) < 1e-5
    check_gradient(light.grad, case["grad_input"])


@needs_golden
def test_four_times_larger_equals_the_published_form():
    case, net = golden("tmrnet_plus"), published(scale=4)
    light = tensor(case["input"]).requires_grad_()
    out = 16 * net(bracket(light))
    out.square().mean().backward()
    assert relative(out.detach(), case["output"]) < 1e-5
    check_gradient(light.grad, case["grad_input"])
    with torch.no_grad():
        assert relative(net.stages(light.detach(), torch.arange(5)[None]), case["stage_outputs"]) < 1e-5


# What the synthetic brackets are made of


def packed(x):
    "(..., h, w, 4) as stored there -> (..., 4, h, w)."
    return torch.from_numpy(np.asarray(x, np.float32)).movedim(-1, -3)


@needs_golden
def test_published_brackets_are_made_in_their_order():
    case = golden("synthesis")
    gains = (torch.tensor([float(case[k])]) for k in ("red_gain", "blue_gain"))
    colour = CameraColour(tensor(case["rgb2cam"])[None], *gains, torch.ones(1))
    light = tensor(case["light"]).permute(0, 3, 1, 2)
    assert (published_clean(light, colour) - packed(case["clean"])).abs().max() < 1e-5
    assert (published_truth(light[0], colour) - packed(case["gt"])).abs().max() < 1e-5 * case["gt"].max()
    shot, read = published_noise(tensor(case["noise_level"]))
    assert relative(shot, case["shot"]) < 1e-5 and relative(read, case["read_median"]) < 1e-5
    pick = tensor(case["frame_level"])
    shot, read = (x[pick].view(-1, 1, 1, 1) for x in (shot, read))
    clean = packed(case["clean"])
    counts = 1023 * read_out(clean + (read + shot * clean).sqrt() * packed(case["z"]), bits=10)
    assert (counts - packed(case["codes"])).abs().max() < 1e-3
    planes = packed(case["down_in"])[None]
    for scale in (2, 4):
        assert (reduced_corners(planes, scale)[0] - packed(case[f"down_x{scale}"])).abs().max() < 1e-5
    mosaic = tensor(case["grbg"].astype(np.float32))
    assert torch.equal(pack(mosaic, "GRBG"), tensor(case["grbg_packed"].astype(np.float32)))


# What is learned, and how


def check_by_name(net, case, prefix, of, least=1e-4):
    "Tensors of some parameters against stored ones, by the largest of each."
    named = dict(net.named_parameters())
    for key in [k for k in case if k.startswith(prefix)]:
        found, stored = of(named[key.removeprefix(prefix)]), tensor(case[key])
        assert (found - stored).abs().max() <= least * stored.abs().max() + 1e-9, key


@needs_golden
def test_curve_loss_and_step_equal_the_published_ones():
    case, data, net = golden("training"), golden("tmrnet"), published().train()
    x = tensor(case["mu_x"]).requires_grad_()
    mu_law(x.clamp(min=0)).sum().backward()
    assert (mu_law(tensor(case["mu_x"])) - tensor(case["mu_y"])).abs().max() < 1e-6
    out = tensor(data["output"]).requires_grad_()
    loss = supervised_loss(out / 16, tensor(case["gt"]) / 16).mean()
    loss.backward()
    assert abs(loss.item() - case["loss_syn"]) < 1e-6
    assert relative(out.grad, case["loss_syn_grad"]) < 1e-4
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01)
    supervised_loss(net(bracket(tensor(data["input"]))), tensor(case["gt"]) / 16).mean().backward()
    check_by_name(net, case, "grad/", lambda p: p.grad, 2e-3)  # one sample that lies on a pixel makes 1e-3
    optimizer.step()
    for key in [k for k in case if k.startswith("step/")]:
        name = key.removeprefix("step/")
        off = (dict(net.named_parameters())[name].detach() - tensor(case[key])).abs()
        known = tensor(case[f"grad/{name}"]).abs() > 1e-6
        assert off.max() < 2.5e-4 and off[known].max() < 1e-6, key  # Adam's first step is the gradient's sign


@needs_golden
def test_self_supervision_equals_the_published_one():
    case, data, net = golden("training"), golden("tmrnet"), published().train()
    pair = Adaptation(net)
    own = {k: parameter("ema/" + k, tuple(v.shape)) for k, v in pair.twin.named_parameters()}
    pair.twin.load_state_dict(pair.twin.state_dict() | own)
    burst = bracket(tensor(data["input"]))
    with torch.no_grad():
        assert relative(16 * pair.twin(burst), case["teacher_output"]) < 1e-5
        for few in (1, 2, 3):
            _, parts = pair(burst, few)
            assert abs(parts["temporal"] - case["loss_self"][few - 1]) < 1e-6
    loss, parts = pair(burst, 2)
    assert abs(parts["held"] - case["loss_ema"]) < 1e-6
    loss.backward()
    check_by_name(net, case, "self_grad/", lambda p: p.grad, 2e-3)
    assert all(p.grad is None for p in pair.twin.parameters())
    average(pair.twin, net)
    check_by_name(pair.twin, case, "ema/", lambda p: p.detach(), 1e-5)


@needs_golden
def test_rates_and_scores_equal_the_published_ones():
    case = golden("training")
    assert np.allclose([bracket_rate(k) for k in range(1, 401)], case["lr_syn"], rtol=1e-6)
    assert np.allclose([adaptation_rate(k) for k in range(1, 11)], case["lr_real"], rtol=1e-6)
    x, y = (
        tensor(case[k].astype(np.float32) / 65535).permute(2, 0, 1)[None] for k in ("metric_out", "metric_gt")
    )
    for border, (decibel, similar) in zip(case["metric_borders"].tolist(), case["metric_psnr_ssim"]):
        assert abs(psnr(x, y, border).item() - decibel) < 1e-3
        assert abs(ssim(x, y, border).item() - similar) < 6e-5  # of the sample, not of the population, there


# Six mistakes that a port may make: each is far from the published network


def modulation_off(net):
    net.learn_para.data.zero_()


def flow_reversed(net):
    forward = net.spynet.forward
    net.spynet.forward = lambda one, two: forward(two, one)


def places_not_flipped(net):
    align = net.dcn_alignment

    def offsets(reference, other, flow):
        told = torch.cat([warp(other, flow), reference, flow], 1)
        offset, weight = align.conv_offset(told).split([144, 72], 1)
        return 10 * offset.tanh() + flow.repeat(1, 72, 1, 1), weight.sigmoid()

    align.offsets = offsets


def gamma_behind(net):
    def features_of(light):
        told = torch.cat([light, gamma(light)], 2)
        return net.feat_extract(told.flatten(0, 1)).unflatten(0, light.shape[:2])

    net.features_of = features_of


def no_tanh(net):
    align = net.dcn_alignment

    def offsets(reference, other, flow):
        told = torch.cat([warp(other, flow), reference, flow], 1)
        offset, weight = align.conv_offset(told).split([144, 72], 1)
        return 10 * offset + flow.flip(1).repeat(1, 72, 1, 1), weight.sigmoid()

    align.offsets = offsets


def blue_for_red(net):
    flows = net.flows
    net.flows = lambda light: flows(light[:, :, [3, 1, 2, 0]])


MISTAKES = [modulation_off, flow_reversed, places_not_flipped, gamma_behind, no_tanh, blue_for_red]


@pytest.fixture(scope="module")
def right():
    return published() if (GOLDEN / "bracketire_tmrnet.npz").exists() else None


@needs_golden
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)
@torch.no_grad()
def test_a_mistake_would_be_seen(mistake, right):
    "Parity asks for 1e-5 of the largest output, about 2; no mistake comes within twenty times of it."
    case, net = golden("tmrnet"), copy.deepcopy(right)
    mistake(net)
    out = 16 * net(bracket(tensor(case["input"][:1])))
    assert relative(out, case["output"][:1]) > 2e-4


# What is ours


def dark_bracket(times, seed=0, side=24):
    "A bracket of a night scene, mostly black."
    g = generator(seed)
    light = F.interpolate(torch.rand(1, 4, 6, 6, generator=g), size=side, mode="bicubic").clamp(0.001, 1) ** 6
    start, stop = timeline(times)
    sensor = OneIso(white_time=16 * FRAME_TIME, bits=10)
    gains = torch.full_like(times, 16.0)
    return sensor(
        light[:, None].expand(-1, times.shape[1], -1, -1, -1), start, stop, gains, generator(seed, 1)
    )


@pytest.mark.parametrize("residual", [True, False])
def test_exposures_have_a_gradient_where_pixels_are_black(residual):
    times = bracket_times(5)[None].requires_grad_()
    net = TMRNet(8, (1, 1, 1, 1), (4, 4, 4, 4), residual=residual)
    for p in net.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    burst = dark_bracket(times)
    assert (burst.frames == 0).float().mean() > 0.1
    net(burst).square().mean().backward()
    assert times.grad.isfinite().all() and times.grad.abs().min() > 0
    bare = burst.frames.detach().requires_grad_()
    (bare.clamp(min=0) ** (1 / 2.2)).sum().backward()
    assert not bare.grad.isfinite().all()  # what the published curve does


def test_a_frame_that_is_left_out_leaves_the_others_their_chains():
    net = TMRNet(8, (1, 1, 1, 1), (4, 4, 4, 4), residual=False)
    net.learn_para.data.copy_(torch.arange(5.0).view(1, 5, 1, 1, 1).expand_as(net.learn_para))
    used = []
    for k in range(5):
        net.backbone[f"backward_rec_{k + 1}"].register_forward_hook(lambda *a, k=k: used.append(k))
    whole = bracket_times(5)
    for frames, chains in (
        ([0, 1, 3, 4], [0, 1, 3, 4]),
        ([0, 2, 4], [0, 2, 4]),
        ([0, 4], [0, 4]),
        ([0], [0]),
    ):
        used.clear()
        with torch.no_grad():
            net(dark_bracket(whole[frames][None]))
        assert used == chains


@torch.no_grad()
def test_first_frames_alone_say_what_the_whole_said_after_them():
    net = TMRNet(8, (1, 1, 1, 1), (4, 4, 4, 4)).eval()
    for p in net.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    burst = dark_bracket(bracket_times(5)[None])
    for k in (1, 2, 4):
        alone = net(burst.each(lambda x, k=k: x[:, :k]))
        assert torch.allclose(net.after(burst, [k, 5])[:, 0], alone, atol=1e-6)


@torch.no_grad()
def test_weights_of_any_size_are_loaded_by_word(tmp_path):
    for scale in (1, 4):
        net = TMRNet(16, (2, 1, 3, 0), (4, 6, 4, 2), scale=scale).eval()
        for p in net.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
        save_weights(net, tmp_path / "net.pt")
        again = load_restorer(tmp_path / "net.pt")
        burst = dark_bracket(bracket_times(3)[None])
        assert torch.equal(again(burst), net(burst)) and again(burst).shape[-1] == 24 * scale
    assert isinstance(fresh_restorer("tmrnet", 5, 16), TMRNet)


@torch.no_grad()
def test_tiles_of_a_large_picture_fit():
    net = TMRNet(8, (1, 1, 1, 1), (4, 4, 4, 4)).eval()
    burst = dark_bracket(bracket_times(3)[None], side=96)
    for p in net.parameters():
        p.data.add_(0.02 * torch.randn_like(p))
    piece = net.pieces(burst)
    inside = piece(slice(0, 96), slice(0, 96))
    assert torch.allclose(inside, net(burst), atol=1e-6)


def test_bad_brackets_are_refused(tmp_path):
    net = TMRNet(8, (1, 1, 1, 1), (4, 4, 4, 4))
    nine = dark_bracket(bracket_times(5)[None]).each(lambda x: x.repeat_interleave(2, 1)[:, :9])
    with pytest.raises(ValueError, match="burst has 9 frames: TMRNet takes 1, 2"):
        net(nine)
    burst = dark_bracket(bracket_times(3)[None])
    with pytest.raises(ValueError, match="2 frames taken of 3"):
        net(burst.leave_out(torch.tensor([[True, False, True]])))
    with pytest.raises(ValueError, match="features is 12"):
        TMRNet(12)
    with pytest.raises(ValueError, match="are no brackets"):
        adapt(net, [], tmp_path, crop=8)
    with pytest.raises(ValueError, match="is 1 bracket to adapt to"):
        adapt(net, [burst], tmp_path, crop=8)
    with pytest.raises(ValueError, match="Merge: adaptation reads"):
        adapt(Merge(), [burst, burst], tmp_path, crop=8)
    with pytest.raises(ValueError, match=r"brackets have \[2, 3\] frames"):
        adapt(net, [burst, burst.each(lambda x: x[:, :2])], tmp_path, crop=8)
    plus = {k: v for k, v in TMRNet(8, scale=4, residual=False).state_dict().items() if "upsample2" not in k}
    with pytest.raises(ValueError, match="lacks 2 weights, such as.*scale 4"):
        TMRNet.load_published(plus)
    assert not list(tmp_path.iterdir())


def test_adaptation_resumes_and_moves_the_student_alone(tmp_path):
    bursts = [dark_bracket(bracket_times(5)[None], seed) for seed in (1, 2)]

    def run(folder, steps=4):
        torch.manual_seed(0)
        net = TMRNet(8, (1, 1, 1, 1), (4, 4, 4, 4))
        net.conv_last.weight.data.normal_(0, 0.1)
        before = {k: v.clone() for k, v in net.state_dict().items()}
        rows = adapt(net, bursts, folder, steps=steps, batch=2, crop=16, lr=1e-3)
        return net, before, rows

    net, before, rows = run(tmp_path / "one")
    assert not torch.equal(net.conv_last.weight, before["conv_last.weight"])
    assert rows[-1]["step"] == 4 and rows[-1]["held"] > 0
    again, _, _ = run(tmp_path / "two")
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in again.state_dict().items())


def test_small_and_large_pictures_lie_on_each_other():
    "A lamp on a dark ground is at the same place of the sensor in both."
    still = torch.full((1, 3, 256, 256), 0.01)
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    still = still + torch.exp(-((x - 150.3) ** 2 + (y - 99.6) ** 2) / 2 / 12**2)
    large = Filmed(still, together([hand_shake(generator(2), 0.2, 300.0)]), (192, 192), instants=3)
    time = torch.tensor([0.13])

    def middle(packed, scale):
        "Of the light, in px of the large sensor from its middle; each plane from where its photosites are."
        at = []
        for k in range(4):
            light = (packed[0, k] - 0.02).clamp(min=0)
            n = packed.shape[-1]
            place = scale * (2 * torch.arange(n) + 0.5 - n)
            rows, columns = (place + scale * o for o in (k // 2, k % 2))
            at.append(
                torch.stack([(light.sum(0) * columns).sum(), (light.sum(1) * rows).sum()]) / light.sum()
            )
        return torch.stack(at).mean(0)

    fine, coarse = large.instant(time), smaller(large).instant(time)
    # bicubic sampling of the small still moves light by 0.06 of its px
    assert (middle(fine, 1) - middle(coarse, 4)).abs().max() < 0.3
    assert (middle(coarse, 4) - middle(enlarged_planes(coarse, 4), 1)).abs().max() < 0.05
    theirs = reduced_corners(fine, 4)
    assert (middle(fine, 1) - middle(theirs, 4)).abs().max() > 0.7


@torch.no_grad()
def test_noise_and_white_are_where_a_sensor_has_them():
    light = torch.full((1, 3, 4, 64, 64), 0.3)
    times = torch.tensor([[4.0, 16, 64]]) * FRAME_TIME
    start, stop = timeline(times)
    noise = lambda g: (torch.full_like(g, 1e-3), torch.full_like(g, 1e-4))
    taken = OneIso(noise, white_time=16 * FRAME_TIME, black=0.1)(
        light, start, stop, torch.ones(1, 3), generator(0)
    )
    raw = taken.frames * (times / times[:, :1])[..., None, None, None]
    assert torch.allclose(raw.mean((0, 2, 3, 4)), torch.tensor([0.075, 0.3, 1.0]), atol=3e-3)
    wanted = (1e-4 + 1e-3 * torch.tensor([0.075, 0.3])).sqrt()
    assert torch.allclose(raw.std((2, 3, 4))[0, :2], wanted, rtol=0.03)
    assert torch.allclose(taken.noise_std[0, :2] * torch.tensor([1.0, 4.0]), wanted, rtol=0.03)
    assert taken.counts[0, :2].all() and not taken.counts[0, 2].any()
    dark = OneIso(noise, black=0.1)(0 * light, start, stop, torch.ones(1, 3), generator(0))
    assert dark.frames.min() < 0 and abs(dark.frames[:, 0].mean()) < 1e-3  # noise below black survives
    cut = OneIso(noise)(0 * light, start, stop, torch.ones(1, 3), generator(0))
    assert cut.frames.min() == 0 and cut.frames[:, 0].mean() > 3e-3
