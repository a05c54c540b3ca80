"BracketIRE: parity with the published network, its losses and its synthetic brackets; what differs from it on purpose."

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from debir_nb.core import generator
from debir_nb.light.brackets import published_clean, published_noise, published_truth, read_out
from debir_nb.light.raw import CameraColour, pack
from debir_nb.light.sensor import Burst, still_burst
from debir_nb.light.smaller import reduced_corners
from debir_nb.restorers.pyramid_flow import SPyNet, warp
from debir_nb.restorers.tmrnet import TMRNet

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
        assert (warp(tensor(case["warp_x"]), where, outside) - tensor(case[f"warp_{outside}"])).abs().max() < 1e-5


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
