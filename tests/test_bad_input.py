"One clear sentence for each bad input to the library, a capture, parameters and experiments; media and the command line have tests of their own."

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from debir_nb.cameras.capture import capture
from debir_nb.cameras.protocol import CameraError
from debir_nb.cameras.simulated import open_camera
from debir_nb.core import Limits, budget, check_finite, generator, optional
from debir_nb.disk import (
    atomic,
    fingerprint,
    load_weights,
    only_writer,
    read_weights,
    save_weights,
    write_sum,
)
from debir_nb.light.motion import motion_magnitude
from debir_nb.light.raw import random_colour
from debir_nb.light.sensor import Burst
from debir_nb.pipeline.experiments import experiment, read_experiments
from debir_nb.pipeline.params import parse_changes, read_params, set_params
from debir_nb.pipeline.run import given
from debir_nb.policies.baenet import BAENet
from debir_nb.policies.by_name import load_policy
from debir_nb.policies.rules import Fixed, Random, bracket, random_exposures
from debir_nb.restorers.by_name import fresh_restorer, load_restorer
from debir_nb.restorers.full_size import restore_full_size
from debir_nb.scenes.store import SceneStore, open_scenes
from debir_nb.scoring.metrics import psnr
from debir_nb.training.loop import fit
from debir_nb.weights.pretrained import load_baenet, load_pretrained

ROOT = Path(__file__).resolve().parents[1]
NAN, ONE = float("nan"), torch.ones(1)
NET, BAENET = fresh_restorer("merge", 4, 8).eval(), BAENet().eval()


def rand(*shape):
    return torch.rand(shape, generator=generator(0))


def taken(frames, shot=0.01, read=0.01):
    n = frames.shape[1]
    noise = torch.ones(len(frames), n)
    start = torch.arange(n).float()[None]
    return Burst(
        frames, shot * noise, read * noise, start, start + 0.5, torch.ones_like(frames, dtype=torch.bool)
    )


def restored(frames, *noise, memory=2e9):
    return restore_full_size(NET, taken(frames, *noise), memory)


def trained(folder, model=None, loss=lambda m, g, s: (m(torch.ones(1, 1)).sum(), {}), **change):
    settings = dict(steps=1, lr=0.1, lr_final=0.1, clip=1.0, seed=0) | change
    return fit(nn.Linear(1, 1) if model is None else model, loss, out=folder / "runs", **settings)


LIBRARY = {
    "n_frames is 0": lambda d: budget(0),
    "n_frames is 4: a burst": lambda d: budget("4"),
    "n_frames is nan": lambda d: budget(NAN),
    "x is of type list": lambda d: check_finite("x", [1.0]),
    "x holds 1 values": lambda d: check_finite("x", torch.tensor([1.0, NAN])),
    "key is .*give whole": lambda d: generator(1.5),
    "key is .*whole numbers": lambda d: generator("a"),
    "nowhere_at_all is not installed": lambda d: optional("nowhere_at_all", "raft"),
    "fingerprint cannot hash object": lambda d: fingerprint(object()),
    "does not exist; make it first": lambda d: fingerprint(d / "nowhere"),
    "x.pt does not exist": lambda d: load_weights(nn.Linear(1, 1), d / "x.pt"),
    "cannot be written": lambda d: only_writer("/proc/nowhere/x").__enter__(),
    "n_frames is 1: a bracket": lambda d: bracket(1),
    "n_frames is 4: a bracket": lambda d: bracket("4"),
    "n_frames is 4.5": lambda d: bracket(4.5),
    "n_frames is 0: a burst": lambda d: Random(0),
    "batch is -1": lambda d: random_exposures(-1, 4, generator(0)),
    "limits allow 2 ticks": lambda d: random_exposures(1, 4, generator(0), Limits(t_u=0.001)),
    "exposures holds 4 values": lambda d: Fixed(torch.full((4,), NAN)),
    "below t_min": lambda d: Fixed(torch.tensor([-0.01, 0.01])),
    "exposures is list": lambda d: Fixed([0.01, 0.01]),
    "exposures is .2, 4.": lambda d: Fixed(torch.full((2, 4), 0.01)),
    "burst of zeros": lambda d: Fixed(torch.zeros(4)),
    "over the budget": lambda d: Fixed(torch.ones(4)),
    "policy is 'x'": lambda d: load_policy("x", 4, d),
    "preview has shape .4, 64, 64.": lambda d: BAENET(rand(4, 64, 64), ONE, ONE),
    "gain has shape": lambda d: BAENET(rand(1, 4, 64, 64), torch.ones(2), ONE),
    "gain is of type float": lambda d: BAENET(rand(1, 4, 64, 64), 3.0, ONE),
    "preview holds 16384": lambda d: BAENET(rand(1, 4, 64, 64) * NAN, ONE, ONE),
    "preview is None": lambda d: BAENET(None, ONE, ONE),
    "preview is of type ndarray": lambda d: BAENET(rand(1, 4, 64, 64).numpy(), ONE, ONE),
    "type torch.int32": lambda d: BAENET(torch.ones(1, 4, 64, 64, dtype=torch.int), ONE, ONE),
    "at least one": lambda d: BAENET(rand(1, 4, 0, 0), ONE, ONE),
    "burst holds 2 bursts": lambda d: restored(rand(2, 4, 4, 16, 16)),
    "the burst's frames holds": lambda d: restored(rand(1, 4, 4, 16, 16) * NAN),
    "the burst's shot holds": lambda d: restored(rand(1, 4, 4, 16, 16), math.inf),
    "NoiseProfile .* cannot be right": lambda d: restored(rand(1, 4, 4, 16, 16), 1e30),
    "shot and read noise above 0": lambda d: restored(rand(1, 4, 4, 16, 16), -1.0),
    "restorer is 'x'": lambda d: fresh_restorer("x", 4, 8),
    "restorer is '3'": lambda d: fresh_restorer(3, 4, 8),
    "which is none": lambda d: fresh_restorer("os:system", 4, 8),
    "nowhere:X cannot be imported": lambda d: fresh_restorer("nowhere:X", 4, 8),
    "holds no scenes": lambda d: SceneStore(d, "test"),
    "split is 'x'": lambda d: SceneStore(d, "x"),
    "n_frames is 3": lambda d: open_scenes(d, "test", 3),
    "compare images of one size": lambda d: psnr(rand(1, 4, 40, 40), rand(1, 4, 40, 42)),
    "at least 1 x 1 px must remain": lambda d: psnr(rand(1, 4, 10, 10), rand(1, 4, 10, 10), 10),
    "pass two batches": lambda d: motion_magnitude(rand(1, 4, 64, 64), rand(1, 4, 32, 32), colour()),
    "at least 16x16": lambda d: motion_magnitude(rand(1, 4, 8, 8), rand(1, 4, 8, 8), colour()),
    "steps is 0": lambda d: trained(d, steps=0),
    "steps is 2.5": lambda d: trained(d, steps=2.5),
    "lr is nan": lambda d: trained(d, lr=NAN),
    "clip is nan": lambda d: trained(d, clip=NAN),
    "model is int": lambda d: trained(d, model=3),
    "loss_fn NoneType": lambda d: trained(d, loss=None),
    "loss_fn returns int": lambda d: trained(d, loss=lambda m, g, s: 3),
}  # what the sentence says -> what is done in a folder


def colour():
    return random_colour(1, generator(0))


def refused(words, action, *arguments):
    "The sentence of an error that is the project's own."
    with pytest.raises((ValueError, CameraError, ImportError), match=words) as caught:
        action(*arguments)
    said = str(caught.value)
    assert 20 < len(said) < 1500 and "Traceback" not in said and "\n" not in said


@pytest.mark.parametrize("words", LIBRARY)
def test_the_library(words, tmp_path):
    refused(words, LIBRARY[words], tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# A capture


@pytest.mark.parametrize("answer", [NAN, -0.01, math.inf, 0.0])
def test_exposure_times_that_cannot_be_are_not_taken(answer, tmp_path):
    camera = open_camera(size=(32, 32))
    refused(
        "answers the exposure times", capture, camera, lambda *a: torch.full((1, 4), answer), tmp_path / "b"
    )
    assert not list((tmp_path / "b").glob("frame_*"))


@pytest.mark.parametrize("shape", [(1, 0), (4,), (1, 1, 4)])
def test_answers_of_another_shape(shape, tmp_path):
    camera = open_camera(size=(32, 32))
    refused("answers the exposure times", capture, camera, lambda *a: torch.full(shape, 0.01), tmp_path / "b")


@pytest.mark.parametrize("timeout", [0, -1, NAN, math.inf])
def test_a_timeout_that_is_none(timeout, tmp_path):
    refused("timeout is", lambda: capture(open_camera(), bracket(4), tmp_path / "b", timeout=timeout))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("text", ['{"name": "my web app"}', "", "[" * 10**5, '{"made_by": 3}', "\xff"])
def test_a_manifest_of_somebody_else_is_kept(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    refused("another program .* such as .*-2", capture, open_camera(size=(32, 32)), bracket(4), tmp_path)
    assert (tmp_path / "manifest.json").read_text(encoding="latin-1") == text


def test_a_folder_with_frames_is_kept_and_a_free_name_is_given(tmp_path):
    folder = tmp_path / "burst"
    capture(open_camera(size=(32, 32)), bracket(4), folder)
    (tmp_path / "burst-2").mkdir()
    refused("holds a capture already: .*burst-3", capture, open_camera(size=(32, 32)), bracket(4), folder)


# Weights


def test_weights_that_were_damaged_replaced_or_claim_what_they_do_not_hold(tmp_path):
    path, net = tmp_path / "net.pt", nn.Linear(64, 64)
    save_weights(net, path)
    whole = path.read_bytes()
    at = whole.index(net.weight.detach().numpy().tobytes()) + 999
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    refused("net.pt cannot be read .* damaged", load_weights, net, path)
    path.write_bytes(whole)
    write_sum(path)
    assert load_weights(nn.Linear(64, 64), path)
    save_weights(nn.Linear(64, 64), path)
    refused("is not the file that was released", load_weights, net, path)
    (tmp_path / "SHA256SUMS").write_text("nothing\n")
    refused("SHA256SUMS is damaged", read_weights, path)
    (tmp_path / "SHA256SUMS").unlink()
    for bad in (torch.zeros(1).expand(2**20, 2**20), torch.zeros(2**40, 0)):
        torch.save({"weight": bad, "bias": torch.zeros(1)}, path)
        for load in (lambda p: load_weights(net, p), load_restorer, read_weights):
            refused("claims the shape", load, path)
    torch.save({"weight": torch.full((64, 64), NAN), "bias": torch.zeros(64)}, path)
    refused("net.pt: weight holds 4096 values that are not finite", load_weights, net, path)
    torch.save({"_extra_state": torch.tensor(list(b"os:system"), dtype=torch.uint8), "a": ONE}, path)
    refused("does not hold a restorer", load_restorer, path)
    torch.save({"mobilenet.classifier.1.weight": ONE, "mobilenet.features.0.0.weight": ONE}, path)
    refused("does not hold BAENet", load_baenet, path)


def test_the_networks_that_are_shipped_are_known_by_their_hash(tmp_path):
    from debir_nb.closure import package

    names = {line.split()[1] for line in (package() / "weights" / "SHA256SUMS").read_text().splitlines()}
    assert names == {path.name for path in (package() / "weights").glob("*.pt")}
    assert load_pretrained()


def test_a_file_that_is_loaded_runs_no_code(tmp_path):
    path = tmp_path / "x.pt"

    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    for legacy in (True, False):
        torch.save({"weight": Evil()}, path, _use_new_zipfile_serialization=legacy)
        for load in (read_weights, load_restorer, load_baenet):
            refused("cannot be read", load, path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("side, memory", [(32, 2e9), (240, 1.2e8)])
def test_what_is_no_number_does_not_become_a_picture(side, memory):
    "Whole, and in tiles."
    broken = fresh_restorer("kernels", 4, 8).eval()
    for p in broken.parameters():
        p.data.fill_(NAN)
    burst = taken(rand(1, 4, 4, side, side))
    refused("Kernels answers values that are not finite", restore_full_size, broken, burst, memory)


# Parameters and experiments

CHANGES = {
    "pretrain=3": "pretrain is a section",
    "model=3": "model is a section",
    "experiments=0": "experiments is a section",
    "experiments.oracle=0": "experiments.oracle is a section",
    "scenes.footage=3": "give text",
    "scenes.footage=null": "give text",
    "scenes.footage=nowhere": "not a folder",
    "scale.x.y=1": "scale.x.y is not a parameter",
    "scale=[": "is no YAML",
    "scale=huge": "scale is 'huge'",
    "scale=3": "give text",
    "pretrain.stesp=3": "did you mean steps",
    "pretrian.steps=3": "did you mean pretrain",
    "pretrain.steps=*x": "is no YAML",
    "pretrain\n.steps=3": "does not say what to change",
    "p" * 1000 + "=3": "^.{,200}$",
    "pretrain.steps={" + "p" * 1000: "^.{,400}$",
    "pretrain.steps=abc": "whole number",
    "pretrain.steps=-5": "not below 0",
    "pretrain.steps=2.5": "whole number",
    "pretrain.steps=true": "whole number",
    "pretrain.steps=[1, 2]": "whole number",
    "pretrain.steps={smoke: 1}": "whole number",
    "pretrain.steps=null": "whole number",
    "pretrain.steps.huge=3": "there are smoke, small, paper|did you mean",
    "pretrain.lr=.nan": "a number",
    "pretrain.lr=1.0e+999": "a number",
    "pretrain.lr=!!python/object/apply:os.system ['true']": "is no YAML|a number",
    "scale": "write NAME=VALUE",
}  # change -> what the sentence says


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_parameters(change, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "data").mkdir()
    refused(CHANGES[change], set_params, path, ["scale=smoke", change])
    assert path.read_bytes() == (ROOT / "params.yaml").read_bytes()


FILES = {
    "": "holds no names",
    "- scale\n": "holds no names",
    "scale: [\n": "is no YAML in line",
    "model: {}\n": "has no key scale",
    "scale: small\npretrain: 3\n": "pretrain is 3, which is no section",
    "scale: small\nexperiments: {oracle: 3}\n": "experiments.oracle is 3",
    "scale: small\nmodel: {n_frame: 4}\n": "did you mean n_frames",
    "[" * 100_000: "is no YAML",
    "a: &a [1]\n" * 200_000: "less than 1 MB",
    "\x00": "is no YAML",
}  # content -> what the sentence says


@pytest.mark.parametrize("text", FILES, ids=range(len(FILES)))
def test_files_of_parameters(text, tmp_path):
    (tmp_path / "params.yaml").write_text(text)
    refused(FILES[text], read_params, tmp_path / "params.yaml")


def test_a_section_that_is_no_stage_is_refused_by_the_nearest_name(tmp_path):
    (tmp_path / "nbs" / "stages").mkdir(parents=True)
    (tmp_path / "nbs" / "stages" / "20_pretrain.ipynb").touch()
    (tmp_path / "params.yaml").write_text("scale: small\npretrian: {steps: 3}\n")
    refused(
        "section pretrian, which is no stage: did you mean pretrain", read_params, tmp_path / "params.yaml"
    )


OVERRIDES = {
    "steps=abc": "neither a number nor a parameter",
    "stepz=3": "did you mean steps",
    "steps=-3": "not below 0",
    "steps=[1]": "whole number",
    "steps=2.5": "whole number",
    "lr=.nan": "a number",
    "steps=train_baenet": "none for the scale",
    "steps=train_baenet.stepz": "did you mean steps",
    "steps=scale": "no number",
    "policy=3": "give text",
}  # override -> what the sentence says


@pytest.mark.parametrize("override", OVERRIDES)
def test_overrides_of_a_run(override):
    refused(OVERRIDES[override], lambda: given("finetune", parse_changes([override])))


ROWS = {
    "baenet: 3": "no row",
    "baenet: {policy: baenet}": "lacks training",
    "baenet: {training: [S1]}": "lacks policy",
    "baenet: {policy: baenet, training: [S1], tabel: 1}": "did you mean table",
    "baenet: {policy: baenet, training: S1}": "training is 'S1'",
    "baenet: {policy: baenet, training: [S9]}": "use S1",
    "baenet: {policy: baenet, training: [[S1]]}": "use S1",
    "baenet: {policy: 3, training: [S1]}": "policy is 3",
    "beanet: {policy: beanet, training: [S1]}": "policy is 'beanet'",
    "baenet: {policy: baenet, training: [S1, S3], n_frames: two}": "n_frames is 'two'",
    "bracket: {policy: baenet, training: [S1, S3]}": "row of baenet",
    "[1, 2]": "holds no names",
    "baenet: {policy: [": "is no YAML",
}  # content -> what the sentence says


@pytest.mark.parametrize("text", ROWS)
def test_rows_of_experiments(text, tmp_path):
    (tmp_path / "experiments.yaml").write_text(text)
    refused(ROWS[text], read_experiments, tmp_path / "experiments.yaml")


def test_what_is_right_stays_right(tmp_path):
    "Nothing of the above refuses what the project itself says."
    assert len(read_experiments(ROOT / "experiments.yaml")) > 30 and read_params(ROOT / "params.yaml")
    assert experiment("bracket", {"policy": "bracket", "training": ["S1", "S3"], "paper": 35}).paper == 35
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "data").mkdir()
    right = [
        "scenes.slow_as=null",
        "pretrain.steps={smoke: 1, small: 2, paper: 3}",
        "pretrain.lr=1",
        "model.n_frames=2",
    ]
    set_params(path, [*right, "pretrain.steps.paper=9"])
    assert read_params(path)["pretrain"]["steps"] == {"smoke": 1, "small": 2, "paper": 9}
    with atomic(tmp_path / "x") as tmp:
        tmp.write_text("1")
