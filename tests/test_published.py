"""The authors' checkpoint, rebuilt from the recorded weights, against the recorded outputs; and files that are something else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from debir_nb.core import FRAME_TIME
from debir_nb.light.raw import CameraColour
from debir_nb.light.sensor import still_burst
from debir_nb.policies.baenet import BAENet, published_exposures
from debir_nb.restorers.burstormer import Burstormer
from debir_nb.weights.published import load_published, published_preview

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
FILES = GOLDEN / "baenet_published.npz", GOLDEN / "burstormer_n4_raw.npz"
needs_golden = pytest.mark.skipif(
    not all(f.exists() for f in FILES), reason="shared/golden is missing: no parity is checked"
)


def weights_of(golden):
    return {k[2:]: torch.from_numpy(golden[k]) for k in golden.files if k.startswith("w/")}


@needs_golden
@pytest.mark.parametrize("prefix", ["baenet", "prednet"])
@pytest.mark.filterwarnings("ignore:.*optical flow")
def test_outputs_equal_the_published_ones(tmp_path, prefix):
    baenet, burstormer = (np.load(f) for f in FILES)
    named = {k.replace("baenet.", f"{prefix}.", 1): v for k, v in weights_of(baenet).items()}
    flow = {
        f"{prefix}.raft.fnet.conv1.weight": torch.zeros(2),
        f"{prefix}.raft.fnet.conv1.bias": torch.zeros(2),
    }
    lightning = {
        "epoch": 9,
        "global_step": 90,
        "pytorch-lightning_version": "1.5.0",
        "state_dict": {**weights_of(burstormer), **named, **flow},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(35.0)}},
        "optimizer_states": [{"state": {}}],
        "lr_schedulers": [],
    }
    torch.save(lightning, tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match="2 weights of the optical flow are left out"):
        ours = load_published(tmp_path / "last.ckpt")
    with torch.no_grad():
        logits = ours[0].mobilenet(torch.from_numpy(baenet["preview"]))
        restored = ours[1](still_burst(torch.from_numpy(burstormer["burst"]), 1.0))
    assert np.abs(logits.numpy() - baenet["logits"]).max() < 1e-5
    assert (
        np.abs(ours[0].head(logits).numpy() / FRAME_TIME - (100 * baenet["fractions"][:, :4] + 7)).max()
        < 1e-3
    )
    assert np.abs(restored.numpy() - burstormer["restored"]).max() < 1e-5


@pytest.fixture(scope="module")
def published():
    baenet, burstormer = (
        BAENet(preview_channels=3, head=published_exposures),
        Burstormer(features=8, residual=False),
    )
    return {
        **burstormer.state_dict(),
        **{f"baenet.{k}": v.detach() for k, v in [*baenet.named_parameters(), *baenet.named_buffers()]},
    }


def saved(tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def test_a_file_without_flow_loads_silently_and_half_precision_becomes_single(tmp_path, published, recwarn):
    half = {k: v.half() if v.is_floating_point() else v for k, v in published.items()}
    baenet, burstormer = load_published(str(saved(tmp_path, {"state_dict": half})))
    assert not recwarn.list
    assert baenet.preview_channels == 3 and burstormer.n_frames == 4 and baenet.mobilenet.tile == (256, 256)
    assert {p.dtype for net in (baenet, burstormer) for p in net.parameters()} == {torch.float32}


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(ValueError, match="there is no such file"):
            load_published(path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, published, keep):
    path = saved(tmp_path, {"state_dict": published})
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ValueError, match="x.ckpt cannot be read as a checkpoint of tensors"):
        load_published(path)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"<html>not found</html>"])
def test_another_kind_of_file_is_refused(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_published(tmp_path / "x.ckpt")


class Harmful:
    def __reduce__(self):
        return print, ("code inside a pickle has run",)


def test_code_inside_a_pickle_is_not_run(tmp_path, published, capsys):
    with pytest.raises(ValueError, match="holds other Python objects"):
        load_published(saved(tmp_path, {"state_dict": published, "hyper": Harmful()}))
    assert "has run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1, 2],
        torch.zeros(3),
        {"state_dict": 3},
        {"state_dict": {"a": 1}},
        {"state_dict": {1: torch.zeros(1)}},
    ],
)
def test_contents_that_are_no_checkpoint_are_refused(tmp_path, content):
    with pytest.raises(ValueError, match="holds no state_dict of tensors"):
        load_published(saved(tmp_path, content))


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"baenet.mobilenet.features.3.conv.2.weight": None},
            "1 weights of BAENet are missing, unexpected or of another shape.*features.3.conv.2.weight",
        ),
        ({"baenet.mobilenet.extra.weight": torch.zeros(1)}, "unexpected.*mobilenet.extra.weight"),
        ({"baenet.mobilenet.classifier.1.bias": torch.zeros(7)}, "another shape.*classifier.1.bias"),
        ({"baenet.mobilenet.features.0.0.weight": torch.zeros(32, 9, 3, 3)}, "preview_channels is 7"),
        (
            {
                f"baenet.mobilenet.classifier.1.{k}": torch.zeros(3, *s)
                for k, s in (("weight", [1280]), ("bias", []))
            },
            "predicts 2 exposures, its Burstormer takes 4",
        ),
        ({"out_conv.0.weight": None}, "lack conv1.0.weight, rec_conv1.0.weight or out_conv.0.weight"),
        ({"other.weight": torch.zeros(1)}, "has unexpected 1 weights.*other.weight"),
        (
            {"conv1.0.weight": torch.full((8, 4, 3, 3), float("nan"))},
            "conv1.0.weight holds 288 values that are not finite",
        ),
    ],
)
def test_other_networks_are_refused_by_name(tmp_path, published, changes, message):
    path = saved(
        tmp_path, {"state_dict": {k: v for k, v in {**published, **changes}.items() if v is not None}}
    )
    with pytest.raises(ValueError, match="x.ckpt does not hold the published networks: .*" + message):
        load_published(path)


def test_a_first_stage_checkpoint_is_refused(tmp_path, published):
    first = {k: v for k, v in published.items() if not k.startswith("baenet.")}
    with pytest.raises(ValueError, match="the first has no BAENet"):
        load_published(saved(tmp_path, {"state_dict": first}))


def test_published_preview_is_linear_srgb():
    colour = CameraColour(torch.eye(3)[None], torch.tensor([2.0]), torch.tensor([1.6]), torch.tensor([1.25]))
    packed = torch.tensor([0.1, 0.2, 0.2, 0.05])[None, :, None, None].expand(1, 4, 6, 8)
    rgb = published_preview(packed, colour)
    assert rgb.shape == (1, 3, 12, 16)
    assert torch.allclose(rgb.mean((2, 3)), torch.tensor([[0.25, 0.25, 0.1]]))
