"""Training: exact resume after SIGKILL, two processes, mixed precision, torch.compile, clipping, and one answer per bad input."""

import json
import math
import signal
import socket
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from debir_nb.disk import fingerprint, load_weights, save_weights
from debir_nb.training.loop import cosine, done_before, fit, own_rows

SETTINGS = dict(steps=24, lr=0.05, lr_final=1e-4, clip=0.5, seed=3, every=6)


def network():
    "Dropout and BatchNorm: the layers with a global generator and with buffers."
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))


def loss_fn(model, generator, step):
    x = torch.randn(16, 3, generator=generator)
    return ((model(x) - x.sum(1, keepdim=True)) ** 2).mean(), {"x": x.mean().item()}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def equal(a, b):
    "Bitwise equal weights and buffers."
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


KILLED = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[1])
from test_training import SETTINGS, fit, loss_fn, network
calls = iter(range(1000))
def deadly(model, generator, step):
    if next(calls) == 17: os.kill(os.getpid(), signal.SIGKILL)  # after the checkpoint at 12
    return loss_fn(model, generator, step)
torch.set_num_threads(1)
fit(network(), deadly, out=sys.argv[2], live=sys.argv[2] + "/live", **SETTINGS)
"""


def start(script, *args):
    return subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_sigkill_then_rerun_is_bitwise_the_uninterrupted_run(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(KILLED, killed).returncode == -signal.SIGKILL
    assert torch.load(killed / "checkpoint.pt", weights_only=True)["history"][-1]["step"] == 12
    models = network(), network()
    histories = [
        fit(model, loss_fn, out=out, live=out / "live", **SETTINGS)
        for model, out in zip(models, (whole, killed))
    ]
    assert equal(*models) and histories[0] == histories[1]
    assert all((out / "checkpoint.pt").exists() for out in (whole, killed))  # until the weights are saved
    for name in ("loss", "lr", "grad_norm", "x"):  # DVCLive: no row lost, none doubled
        whole_rows, rows = (
            (out / f"live/plots/metrics/{name}.tsv").read_text().splitlines() for out in (whole, killed)
        )
        assert rows == whole_rows and len(rows) == 5
    assert json.loads((killed / "live/metrics.json").read_text())["step"] == 24


TOGETHER = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[1])
from accelerate import notebook_launcher
from test_training import SETTINGS, fit, network, save_weights, shared_loss
def stage(out, deadly):
    calls = iter(range(1000))
    def loss_fn(model, generator, step):
        if deadly and next(calls) == 17: os.kill(os.getpid(), signal.SIGKILL)  # after the checkpoint at 12
        return shared_loss(model, generator, step)
    torch.set_num_threads(1)
    model = network()
    fit(model, loss_fn, out=out, live=out + "/live", **SETTINGS)
    save_weights(model, out + "/weights.pt")
notebook_launcher(stage, (sys.argv[2], sys.argv[3] == "deadly"), num_processes=int(sys.argv[4]), use_port=sys.argv[5])
"""


def shared_loss(model, generator, step):
    """Sixteen draws; the network, with its dropout and its statistics, sees all of them, and a process
    answers for its own.
    """
    x = torch.randn(16, 3, generator=generator)
    mine = own_rows(16)
    return ((model(x) - x.sum(1, keepdim=True))[mine] ** 2).mean(), {"x": x.mean().item()}


def together(processes, out, deadly=""):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return start(TOGETHER, out, deadly, processes, port)


def test_two_processes_train_as_one_and_either_number_resumes_the_other(tmp_path):
    whole = tmp_path / "whole"
    model = network()
    history = fit(model, shared_loss, out=whole, live=whole / "live", **SETTINGS)
    for name, first, then in (("two", None, 2), ("two, then one", 2, 1), ("one, then two", 1, 2)):
        out = tmp_path / name
        if first:
            assert together(first, out, "deadly").returncode != 0
            assert torch.load(out / "checkpoint.pt", weights_only=True)["history"][-1]["step"] == 12
        done = together(then, out)
        assert done.returncode == 0, done.stderr
        # the second process left nothing
        assert sorted(p.name for p in out.iterdir()) == ["checkpoint.pt", "live", "weights.pt"]
        for key in ("loss", "grad_norm", "x"):
            tables = (folder / f"live/plots/metrics/{key}.tsv" for folder in (out, whole))
            rows, alone = (
                [float(line.split("\t")[-1]) for line in table.read_text().splitlines()[1:]]
                for table in tables
            )
            assert rows == pytest.approx(alone, abs=1e-5) and len(rows) == 4
        for key, value in load_weights(network(), out / "weights.pt").state_dict().items():
            if key in ("0.bias", "1.running_mean"):
                continue  # BatchNorm takes this bias away: its gradient is rounding, which AdamW scales up
            torch.testing.assert_close(value, model.state_dict()[key], atol=1e-5, rtol=1e-5)
    assert [row["step"] for row in history] == [6, 12, 18, 24]


def test_processes_that_cannot_share_a_batch(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    assert own_rows(6) == slice(4, 6)
    with pytest.raises(
        ValueError, match="batch is 16, which 3 processes cannot share evenly: make it a multiple of 3"
    ):
        own_rows(16)


@pytest.fixture
def accelerate_forgets():
    """Accelerate keeps its settings for the life of a process: forget them before, after, and when this is
    called.
    """
    from accelerate.state import AcceleratorState

    forget = partial(AcceleratorState._reset_state, reset_partial_state=True)
    forget()
    yield forget
    forget()


@pytest.fixture
def bfloat16(monkeypatch, accelerate_forgets):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")


def test_mixed_precision_is_used_each_time_and_leaves_the_model_as_it_was(tmp_path, bfloat16):
    model, seen = network(), []
    model[0].register_forward_hook(lambda module, x, y: seen.append(y.dtype))
    for name in ("first", "second"):
        fit(model, loss_fn, out=tmp_path / name, **SETTINGS | dict(steps=2))
    assert seen == [torch.bfloat16] * 4
    assert model(torch.randn(16, 3)).dtype == torch.float32 and seen[-1] == torch.float32


def test_a_compiled_model_trains_as_a_plain_one(tmp_path, monkeypatch, accelerate_forgets):
    plain, compiled = network(), network()
    history = fit(plain, loss_fn, out=tmp_path, **SETTINGS | dict(steps=3))
    accelerate_forgets()
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "aot_eager")  # as inductor, without a C++ compiler
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    again = fit(compiled, loss_fn, out=tmp_path / "compiled", **SETTINGS | dict(steps=3))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in history], rel=1e-5)
    assert list(compiled.state_dict()) == list(plain.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_the_loss_falls(tmp_path):
    def on_gpu(model, generator, step):
        x = torch.randn(64, 3, generator=generator).to(next(model.parameters()).device)
        return ((model(x) - x.sum(1, keepdim=True)) ** 2).mean(), {}

    history = fit(network(), on_gpu, out=tmp_path, **SETTINGS | dict(steps=200))
    assert history[-1]["loss"] < history[0]["loss"] / 2


def test_global_generator_is_put_back_and_does_not_matter(tmp_path):
    results = []
    for seed in (1, 2):
        model = network()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        fit(model, loss_fn, out=tmp_path / str(seed), **SETTINGS)
        assert torch.equal(before, torch.get_rng_state())
        results.append(model)
    assert equal(*results)


def test_mode_and_frozen_parameters_are_left_alone(tmp_path):
    model = network().eval()
    model[0].requires_grad_(False)
    frozen, statistics = model[0].weight.clone(), model[1].running_mean.clone()
    last = model[3].weight.clone()
    fit(model, loss_fn, out=tmp_path, **SETTINGS)
    assert not any(m.training for m in model.modules())
    assert torch.equal(frozen, model[0].weight) and torch.equal(statistics, model[1].running_mean)
    assert not torch.equal(last, model[3].weight)


def test_rows_are_means_over_their_steps_and_the_last_may_be_short(tmp_path):
    seen = []

    def record(model, generator, step):
        loss, report = loss_fn(model, generator, step)
        seen.append(loss.item())
        return loss, report

    history = fit(network(), record, out=tmp_path, **SETTINGS | dict(steps=8))
    assert [row["step"] for row in history] == [6, 8]
    assert history[0]["loss"] == pytest.approx(sum(seen[:6]) / 6) and history[1]["loss"] == pytest.approx(
        sum(seen[6:]) / 2
    )
    assert history[1]["lr"] == cosine(7, 8, 0.05, 1e-4)


def test_clipping_limits_the_gradient_that_the_optimiser_sees(tmp_path):
    model, norms = nn.Linear(3, 1), []
    handle = register_optimizer_step_pre_hook(
        lambda *_: norms.append(math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters())))
    )
    history = fit(
        model,
        lambda m, g, step: (1000 * loss_fn(m, g, step)[0], {}),
        out=tmp_path,
        **SETTINGS | dict(every=1, clip=0.01),
    )
    handle.remove()
    assert len(norms) == 24 and max(norms) == pytest.approx(0.01, rel=1e-3)
    assert min(row["grad_norm"] for row in history) > 1  # recorded before clipping


def leave_checkpoint(out, build=network, **kwargs):
    calls = iter(range(1000))

    def dies(model, generator, step):
        if next(calls) == 13:
            raise KeyboardInterrupt
        return loss_fn(model, generator, step)

    with pytest.raises(KeyboardInterrupt):
        fit(build(), dies, out=out, **SETTINGS | kwargs)
    return out / "checkpoint.pt"


@pytest.mark.parametrize(
    "change",
    [
        dict(fingerprint="b"),
        dict(lr=0.04),
        dict(lr_final=0.0),
        dict(steps=30),
        dict(clip=1.0),
        dict(seed=4),
        dict(weight_decay=0.0),
    ],
)
def test_checkpoint_of_other_settings_is_ignored_aloud(tmp_path, change):
    leave_checkpoint(tmp_path, fingerprint="a")
    settings = SETTINGS | dict(fingerprint="a") | change
    fresh, model = network(), network()
    fit(fresh, loss_fn, out=tmp_path / "fresh", **settings)
    with pytest.warns(UserWarning, match=f"checkpoint.pt belongs to a run with .*{next(iter(change))}"):
        fit(model, loss_fn, out=tmp_path, **settings)
    assert equal(fresh, model)


def test_a_training_that_has_ended_is_not_lost_before_its_weights_are_saved(tmp_path):
    "Whatever comes next may fail: a second run finds all steps done, says so, and changes nothing."
    first, second = network(), network()
    histories = [fit(first, loss_fn, out=tmp_path, live=tmp_path / "live", **SETTINGS)]
    record = {p.name: p.read_bytes() for p in (tmp_path / "live").rglob("*.*") if p.is_file()}

    def never(model, generator, step):
        raise AssertionError(f"step {step} is done again")

    with pytest.warns(UserWarning, match="holds the end of this training"):
        histories += [fit(second, never, out=tmp_path, live=tmp_path / "live", **SETTINGS)]
    assert equal(first, second) and histories[0] == histories[1]
    again = {p.name: p.read_bytes() for p in (tmp_path / "live").rglob("*.*") if p.is_file()}
    assert {*record} == {*again} and record["metrics.json"] == again["metrics.json"]
    assert done_before(tmp_path) == SETTINGS["steps"] and done_before(tmp_path / "nowhere") == 0


def test_a_checkpoint_has_one_writer(tmp_path):
    script = "import sys, time\nfrom debir_nb.disk import only_writer\nwith only_writer(sys.argv[1]): print(1, flush=True); time.sleep(60)"
    other = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "checkpoint.pt"], stdout=subprocess.PIPE
    )
    other.stdout.readline()
    with pytest.raises(ValueError, match=f"another process .number {other.pid}. is at it"):
        fit(network(), loss_fn, out=tmp_path, **SETTINGS)
    other.kill()
    other.communicate()
    fit(network(), loss_fn, out=tmp_path, **SETTINGS)  # a lock ends with its owner
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_same_settings_resume_without_a_warning(tmp_path):
    leave_checkpoint(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(network(), loss_fn, out=tmp_path, **SETTINGS)
    assert [row["step"] for row in history] == [6, 12, 18, 24]


@pytest.mark.parametrize("size", [0, 100, 2000, -30])
def test_truncated_checkpoint_is_an_error_and_is_kept(tmp_path, size):
    path = leave_checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read .*delete it"):
        fit(network(), loss_fn, out=tmp_path, **SETTINGS)
    assert path.exists()


def test_checkpoint_of_another_network_is_an_error(tmp_path):
    leave_checkpoint(tmp_path)
    wide = nn.Sequential(nn.Linear(3, 9), nn.BatchNorm1d(9), nn.Dropout(0.3), nn.Linear(9, 1))
    with pytest.raises(
        ValueError, match=r"checkpoint\.pt: 0\.weight has shape \(8, 3\), the network needs \(9, 3\)"
    ):
        fit(wide, loss_fn, out=tmp_path, **SETTINGS)
    frozen = network()
    frozen[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: other parameters were trained"):
        fit(frozen, loss_fn, out=tmp_path, **SETTINGS)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="is not a checkpoint of fit"):
        fit(network(), loss_fn, out=tmp_path, **SETTINGS)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss_that_is_not_finite_names_the_step_and_spares_the_checkpoint(tmp_path, bad):
    model, calls = network(), iter(range(100))
    with pytest.raises(ValueError, match=f"step 7 of warm-up: the loss is {bad}"):
        fit(
            model,
            lambda m, g, step: (loss_fn(m, g, step)[0] * (bad if next(calls) == 7 else 1), {}),
            out=tmp_path,
            description="warm-up",
            **SETTINGS,
        )
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["history"][-1]["step"] == 6


def test_gradient_that_is_not_finite_names_the_step_and_spares_the_weights(tmp_path):
    model = nn.Linear(3, 1)
    before = model.weight.clone()
    with pytest.raises(ValueError, match="step 0 of training: the gradient's norm is (nan|inf)"):
        fit(model, lambda m, g, step: ((m(torch.zeros(1, 3)) * 0).sum().sqrt(), {}), out=tmp_path, **SETTINGS)
    assert torch.equal(before, model.weight)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(steps=0), "steps is 0"),
        (dict(every=0), "every 0"),
        (dict(lr=0.0, lr_final=0.0), "lr is 0.0"),
        (dict(lr_final=1.0), "lr_final 1.0"),
        (dict(clip=0.0), "clip is 0.0"),
        (dict(lr=math.nan), "lr is nan"),
    ],
)
def test_settings_out_of_range(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        fit(network(), loss_fn, out=tmp_path, **SETTINGS | change)


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda m, g, step: (m(torch.ones(2, 3)), {}), r"loss has shape \(2, 1\)"),
        (lambda m, g, step: (torch.ones(()), {}), "requires_grad=False"),
        (lambda m, g, step: (m(torch.ones(2, 3)).mean(), {"lr": 1.0}), "reports {'lr'}"),
    ],
)
def test_loss_functions_that_cannot_be_trained_on(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        fit(network(), bad, out=tmp_path, **SETTINGS)


def test_weights_name_the_first_parameter_that_does_not_fit(tmp_path):
    path = tmp_path / "folder" / "weights.pt"
    save_weights(nn.Linear(3, 2), path)
    with pytest.raises(ValueError, match="does not fit Sequential: 0.weight is missing"):
        load_weights(network(), path)
    with pytest.raises(ValueError, match="does not fit Linear: it has no bias"):
        load_weights(nn.Linear(3, 2, bias=False), path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds no dictionary of weights"):
        load_weights(nn.Linear(3, 2), path)
    torch.save(nn.Linear(3, 2), path)  # a pickled object could run code
    with pytest.raises(ValueError, match="cannot be read"):
        load_weights(nn.Linear(3, 2), path)


def test_fingerprint_sees_every_file_of_a_folder_and_missing_ones(tmp_path):
    data = tmp_path / "data"
    (data / "clip").mkdir(parents=True)
    (data / "clip" / "0.raw").write_bytes(b"0")
    first = fingerprint({"data": [data]}, 1e-3)
    assert first == fingerprint({"data": [data]}, 1e-3) and len(first) == 16
    (data / "clip" / "1.raw").write_bytes(b"1")
    assert fingerprint({"data": [data]}, 1e-3) != first
    (data / "clip" / "1.raw").rename(data / "1.raw")
    assert len({first, fingerprint({"data": [data]}, 1e-3), fingerprint({"data": [data]}, 1)}) == 3
    with pytest.raises(ValueError, match="none does not exist"):
        fingerprint(tmp_path / "none")
