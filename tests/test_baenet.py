"""BAENet against the published network, its bounds, and its answers to bad input."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from debir_nb.core import FRAME_TIME, T_MIN, budget
from debir_nb.disk import load_weights, save_weights
from debir_nb.policies.baenet import (
    BAENet,
    bounded_exposures,
    bounded_softmax,
    export_onnx,
    normalise_gain,
    published_bounded_softmax,
    published_exposures,
    recalibrate_batchnorm,
    stack_inputs,
)
from debir_nb.policies.mobilenet import MobileNetV2, TiledMobileNetV2, cut_tiles

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "baenet_published.npz"


@pytest.fixture(scope="module")
def inputs():
    rng = torch.Generator().manual_seed(0)
    return (
        torch.rand(3, 4, 32, 32, generator=rng),
        torch.tensor([512.0, 700.0, 1024.0]),
        torch.tensor([0.0, 3.0, 12.0]),
    )


@pytest.mark.skipif(
    not GOLDEN.exists(),
    reason="shared/golden/baenet_published.npz is missing: no parity with the published BAENet is checked",
)
def test_logits_and_fractions_equal_the_published_ones():
    golden = np.load(GOLDEN)
    net = BAENet(preview_channels=3, head=published_exposures).eval()
    prefix = "w/baenet."
    net.load_state_dict(
        {k.removeprefix(prefix): torch.from_numpy(golden[k]) for k in golden.files if k.startswith(prefix)}
    )
    x, logits, fractions = (torch.from_numpy(golden[k]) for k in ("preview", "logits", "fractions"))
    with torch.no_grad():
        ours = net.mobilenet(x)
    assert (ours - logits).abs().max() < 1e-5
    assert (published_bounded_softmax(ours, golden["min_fraction"].item()) - fractions).abs().max() < 1e-5
    assert (net.head(ours) / FRAME_TIME - (100 * fractions[:, :4] + 7)).abs().max() < 1e-3


def test_planes_are_preview_motion_gain(inputs):
    preview, gain, motion = inputs
    x = stack_inputs(preview, gain, motion)
    assert torch.equal(x[:, :4], preview)
    assert x[:, 4].mean((1, 2)).tolist() == pytest.approx([0, 0.3, 1])
    assert x[:, 5].mean((1, 2)).tolist() == pytest.approx([0, 188 / 512, 1])


def test_gain_feature_is_the_published_maximum_iso_feature():
    maximum_iso = torch.linspace(102400, 204800, 7, dtype=torch.float64)
    preview_gain = maximum_iso / 100 * T_MIN / (16 * FRAME_TIME)
    assert torch.allclose(normalise_gain(preview_gain), maximum_iso / 102400 - 1)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_bounds_are_reached_and_never_passed(n):
    extreme = 1e4 * torch.eye(n + 1, dtype=torch.float64)
    t_u = budget(n)
    ours, published = bounded_exposures(extreme), published_exposures(extreme)
    assert ours[0, 0].item() == pytest.approx(t_u - n * T_MIN) and published[0, 0].item() == pytest.approx(
        t_u - (n - 1) * T_MIN
    )
    assert ours[-1].tolist() == pytest.approx([T_MIN] * n) and published[-1].tolist() == pytest.approx(
        [T_MIN] * n
    )
    assert ours.sum(1).max().item() <= t_u - T_MIN + 1e-12 and published.sum(1).max().item() <= t_u + 1e-12


@pytest.mark.parametrize("softmax", [bounded_softmax, published_bounded_softmax])
def test_gradient_of_the_bounded_softmax(softmax):
    logits = torch.randn(
        3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda f: softmax(f, 0.05), logits)


def test_each_input_matters_and_scenes_are_independent(inputs):
    torch.manual_seed(0)
    net = BAENet()
    preview, gain, motion = inputs
    preview = preview[:, :, :16, :16]
    recalibrate_batchnorm(net, lambda: net(preview, gain, motion))
    with torch.no_grad():
        t = net(preview, gain, motion)
        assert torch.allclose(net(preview[1:2], gain[1:2], motion[1:2]), t[1:2], rtol=1e-3)
        for other in (
            net(preview.flip(0), gain, motion)[0],
            net(preview, gain + 100, motion)[0],
            net(preview, gain, motion + 1)[0],
        ):
            assert not torch.allclose(other, t[0], rtol=1e-3)
        assert torch.equal(net(preview, gain, motion + 100), net(preview, gain, motion + 200))


def test_double_precision_is_kept(inputs):
    t = BAENet().double().eval()(*(x[:1].double() for x in inputs))
    assert t.dtype == torch.float64


def test_first_prediction_is_near_uniform():
    torch.manual_seed(0)
    for n in (2, 4, 8):
        net = BAENet(n_frames=n, preview_channels=3)
        with torch.no_grad():
            t = net(torch.rand(8, 3, 40, 48), 512 + 512 * torch.rand(8), 12 * torch.rand(8))
        assert t.shape == (8, n)
        assert (t / (budget(n) / (n + 1)) - 1).abs().max() < 0.3


def test_recalibration_is_the_average_over_batches_and_restores_momenta():
    bn = nn.BatchNorm2d(2, momentum=0.3)
    batches = [torch.randn(4, 2, 5, 5) + k for k in range(3)]
    recalibrate_batchnorm(nn.Sequential(bn), lambda: [bn(x) for x in batches])
    assert torch.allclose(
        bn.running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0), atol=1e-6
    )
    assert torch.allclose(bn.running_var, torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0), atol=1e-6)
    assert bn.momentum == 0.3 and not bn.training


def test_lower_precision_inside_costs_the_exposures_no_digits(inputs):
    torch.manual_seed(0)
    net = BAENet().eval()
    with torch.autocast("cpu", torch.bfloat16):
        exposures = net(*inputs)
    assert exposures.dtype == torch.float32 and exposures.sum(1).max() <= budget(4) * (1 + 1e-6)
    torch.testing.assert_close(exposures, net(*inputs), rtol=0.05, atol=0)


@pytest.mark.parametrize("channels", [3, 4])
def test_imagenet_weights_keep_classifier_and_extra_filters(channels):
    imagenet, net = MobileNetV2(), BAENet(preview_channels=channels)
    before = {k: v.clone() for k, v in net.mobilenet.state_dict().items()}
    net.load_imagenet(imagenet.state_dict())
    after = net.mobilenet.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in after if k.startswith("classifier."))
    assert torch.equal(
        after["features.0.0.weight"][:, channels:], before["features.0.0.weight"][:, channels:]
    )
    assert torch.equal(
        after["features.9.conv.1.0.weight"], imagenet.state_dict()["features.9.conv.1.0.weight"]
    )
    assert torch.allclose(
        after["features.0.0.weight"][:, :channels].sum(1), imagenet.features[0][0].weight.sum(1), atol=1e-6
    )


def test_torchvision_weights_load_by_name():
    models = pytest.importorskip(
        "torchvision.models", reason="torchvision (extra raft) is not installed", exc_type=ImportError
    )
    theirs = models.mobilenet_v2(weights=None).eval()
    ours = MobileNetV2().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def _bad(inputs, **change):
    return {**dict(zip(("preview", "gain", "motion"), inputs, strict=True)), **change}


@pytest.mark.parametrize("name", ["preview", "gain", "motion"])
def test_nan_is_refused_by_name(inputs, name):
    x = dict(zip(("preview", "gain", "motion"), inputs, strict=True))[name].clone()
    x.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=f"{name} holds 1 values"):
        BAENet()(**_bad(inputs, **{name: x}))


def test_wrong_channels_and_batches_are_refused(inputs):
    net = BAENet()
    with pytest.raises(ValueError, match=r"preview has shape .*takes \(b, 4, h, w\)"):
        net(**_bad(inputs, preview=inputs[0][:, :3]))
    with pytest.raises(ValueError, match="gain has shape"):
        net(**_bad(inputs, gain=inputs[1][:2]))
    with pytest.raises(ValueError, match="motion has shape"):
        net(**_bad(inputs, motion=inputs[2][:1]))


def test_wrong_construction_is_refused():
    with pytest.raises(ValueError, match="n_frames is 0"):
        BAENet(n_frames=0)
    with pytest.raises(ValueError, match="preview_channels is 5"):
        BAENet(preview_channels=5)


def test_impossible_minimum_is_refused():
    with pytest.raises(ValueError, match="minimum is 0.2"):
        bounded_softmax(torch.zeros(5), 0.2)
    with pytest.raises(ValueError, match="minimum is 0.25"):
        published_bounded_softmax(torch.zeros(5), 0.25)


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="does not hold MobileNetV2's weights"):
        BAENet().load_imagenet({"conv.weight": torch.zeros(1)})
    wrong = MobileNetV2(in_channels=4).state_dict()
    with pytest.raises(ValueError, match="does not hold MobileNetV2's weights"):
        BAENet().load_imagenet(wrong)


def test_recalibration_refuses_networks_without_it_and_empty_runs():
    with pytest.raises(ValueError, match="no batch normalisation"):
        recalibrate_batchnorm(nn.Linear(1, 1), lambda: None)
    with pytest.raises(ValueError, match="passed no batch"):
        recalibrate_batchnorm(nn.Sequential(nn.BatchNorm2d(2)), lambda: None)


# Larger previews


@pytest.mark.parametrize(
    "h, w, size, k",
    [
        (32, 32, (32, 32), 1),
        (128, 128, (32, 32), 16),
        (33, 70, (32, 32), 6),
        (20, 100, (32, 48), 3),
        (65, 64, (64, 64), 2),
    ],
)
def test_tiles_cover_the_picture_evenly(h, w, size, k):
    x = torch.arange(float(h * w)).reshape(1, 1, h, w)
    tiles = cut_tiles(x, size)
    assert tiles.shape == (1, k, 1, min(h, size[0]), min(w, size[1])) and set(
        tiles.flatten().tolist()
    ) == set(range(h * w))
    corners = tiles[0, :, 0, 0, 0].long()
    for starts in (corners.div(w, rounding_mode="floor").unique(), (corners % w).unique()):
        steps = starts.diff()
        assert len(steps) == 0 or steps.max() - steps.min() <= 1


def test_a_trained_network_answers_large_previews_as_it_does_their_tiles(inputs):
    torch.manual_seed(1)
    net = BAENet()
    for p in net.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    net.train()(*inputs)
    recalibrate_batchnorm(net, lambda: net(*inputs))
    assert net.mobilenet.tile == (32, 32)
    large, gain, motion = torch.rand(2, 4, 64, 96), torch.tensor([600.0, 900.0]), torch.tensor([1.0, 4.0])
    with torch.no_grad():
        t = net(large, gain, motion)
        logits = torch.stack(
            [
                net.mobilenet(stack_inputs(large[..., y : y + 32, x : x + 32], gain, motion))
                for y in (0, 32)
                for x in (0, 32, 64)
            ]
        ).mean(0)
        assert (
            torch.allclose(t, net.head(logits), rtol=1e-4)
            and t.min() >= T_MIN
            and (t.sum(1) <= budget(4) + 1e-6).all()
        )
        assert torch.allclose(net(large.tile(1, 1, 2, 2), gain, motion), t, rtol=1e-4)
        net.mobilenet.tile = None
        assert not torch.allclose(net(large, gain, motion), t, rtol=1e-2)


def test_the_tile_travels_with_the_weights_and_old_weights_have_none(tmp_path):
    net = TiledMobileNetV2(4, 2)
    assert net.tile is None
    net(torch.rand(2, 4, 32, 48))
    net.eval()(torch.rand(1, 4, 64, 64))
    assert net.tile == (32, 48)
    save_weights(net, tmp_path / "new.pt")
    assert load_weights(TiledMobileNetV2(4, 2), tmp_path / "new.pt").tile == (32, 48)
    save_weights(MobileNetV2(4, 2), tmp_path / "old.pt")
    assert load_weights(net, tmp_path / "old.pt").tile is None
    with pytest.raises(ValueError, match="does not fit MobileNetV2: it has no _extra_state"):
        load_weights(MobileNetV2(4, 2), tmp_path / "new.pt")


# Out of Python


@pytest.mark.parametrize(
    "opset, channels, n, tile", [(18, 4, 4, None), (20, 3, 2, None), (18, 4, 4, (32, 32))]
)
def test_onnx_runtime_gives_the_same_exposures_at_any_size(tmp_path, opset, channels, n, tile):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net = BAENet(n, channels)
    for p in net.parameters():
        p.data.add_(0.02 * torch.randn_like(p))
    recalibrate_batchnorm(
        net, lambda: net(torch.rand(8, channels, 48, 48), 512 + 512 * torch.rand(8), 10 * torch.rand(8))
    )
    net.train()
    net.mobilenet.tile = tile
    export_onnx(net, tmp_path / "baenet.onnx", opset)
    assert net.training and [f.name for f in tmp_path.iterdir()] == ["baenet.onnx"]
    assert onnx.load(tmp_path / "baenet.onnx").opset_import[0].version == opset
    session = runtime.InferenceSession(tmp_path / "baenet.onnx")
    for b, h, w in ((3, *tile),) if tile else ((1, 128, 128), (3, 64, 96), (2, 37, 51)):
        inputs = torch.rand(b, channels, h, w), 400 + 800 * torch.rand(b), 12 * torch.rand(b)
        (answer,) = session.run(None, dict(zip(("preview", "gain", "motion"), (x.numpy() for x in inputs))))
        with torch.no_grad():
            want = net.eval()(*inputs)
        assert (torch.from_numpy(answer) - want).abs().max() < 1e-4 * T_MIN and want.std() > 0


def test_onnx_without_its_package_or_with_an_old_opset(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="opset is 11"):
        export_onnx(BAENet(), tmp_path / "a.onnx", 11)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"debir_nb\[onnx\]"):
        export_onnx(BAENet(), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
