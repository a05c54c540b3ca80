"The pipeline as a user meets it: every stage at smoke size on tiny footage, what reruns when, and what a killed stage leaves."

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
import yaml

from debir_nb.closure import closure, package
from debir_nb.pipeline.experiments import Experiment
from debir_nb.pipeline.graph import dvc_yaml
from debir_nb.pipeline.params import (
    SCALES,
    at_scale,
    parse_changes,
    read_params,
    referred,
    sections,
    set_params,
    stage_parameters,
)
from debir_nb.pipeline.readme import MARKS, PAGES, print_results, readme_rows, write_readme
from debir_nb.pipeline.run import declared, given, names, stage_notebook
from debir_nb.pipeline.schedule import side_by_side
from debir_nb.policies.words import POLICIES
from debir_nb.training.loop import done_before

ROOT = Path(__file__).resolve().parents[1]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES = list(sections(PARAMS))
ORDER = [
    "scenes",
    "pretrain",
    "pseudo_gt",
    "warm_up",
    "train_baenet",
    "search_fixed",
    *(f"{stage}@{name}" for stage in ("finetune", "evaluate") for name in ("baenet", "bracket", "fixed")),
    "results",
    "capture",
]  # the core


def tiny_footage(folder):
    "Three recordings at 240 frames/s that move by 0, 1 and 3 px a frame."
    y, x = np.mgrid[:72, :96].astype(np.float32)
    for name, speed in (("still", 0), ("walk", 1), ("run", 3)):
        (folder / f"{name}_240fps").mkdir(parents=True)
        for k in range(32):
            frame = np.stack([120 + 80 * np.sin((x - speed * k) / 6 + y / c) for c in (5, 9, 14)], -1)
            cv2.imwrite(str(folder / f"{name}_240fps" / f"{k:03d}.png"), frame.round().astype(np.uint8))


def copy_project(to):
    "The tracked sources of the project in a folder of their own, with tiny footage and the smoke scale."
    made = {
        "dvcstore",
        "scenes",
        "data",
        "models",
        "reports",
        "runs",
        "live",
        "results",
        "scores",
        "capture",
        "tmp",
    }
    made |= {"pseudo_gt", "dvc.lock", ".git", ".venv"}
    hidden = shutil.ignore_patterns(".*cache*", "cache", ".*.begun", "__pycache__", "*.egg-info", "*-n[0-9]")

    def skip(folder, names):
        "What a run makes, at the top level, and caches everywhere."
        return hidden(folder, names) | (made & set(names) if Path(folder) == ROOT else set())

    shutil.copytree(ROOT, to, ignore=skip)
    tiny_footage(to / "clips")
    run(to, "git", "init", "-q")
    run(
        to,
        "git",
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.invalid",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "a beginning",
    )
    run(to, sys.executable, "-m", "debir_nb.pipeline", "set", "scale=smoke", "scenes.footage=clips")
    return to


def environment(folder):
    "The interpreter of these tests, and the library of that folder."
    return {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "2",
    }


def run(folder, *command, ok=True):
    "Run a command in a folder; its output. The test fails when the command does and `ok`."
    done = subprocess.run(
        [str(c) for c in command],
        cwd=folder,
        env=environment(folder),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0 or not ok, f"{command} failed:\n{done.stdout[-4000:]}"
    return done.stdout


def dvc(folder, *arguments, ok=True):
    return run(folder, sys.executable, "-m", "dvc", *arguments, ok=ok)


def repro(folder, *arguments):
    return re.findall(r"Running stage '([^']+)'", dvc(folder, "repro", *(arguments or ["results"])))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A finished smoke run, in a folder with a space in its name."
    folder = copy_project(tmp_path_factory.mktemp("a b") / "project")
    output = dvc(folder, "repro", "results", "capture")
    assert [s for s in ORDER if f"Running stage '{s}'" not in output] == []
    return folder


def test_every_stage_leaves_a_report_and_results(project):
    reports = {p.stem for p in (project / "reports").glob("*.ipynb")}
    assert reports == {stage.replace("@", "-") for stage in ORDER}
    metrics = json.loads((project / "results" / "metrics.json").read_text())
    assert (
        metrics["scenes"] == 8
        and set(metrics["policies"]) == {"DEBIR", "exposure bracket", "best fixed exposures"}
        and metrics["claims"]["t1 falls with motion"] in ("reproduced", "not reproduced")
    )
    printed = run(project, sys.executable, "-m", "debir_nb.pipeline", "results")
    assert "| DEBIR |" in printed and "reports/results.ipynb" in printed


def test_reports_hold_the_parameters_of_the_scale_and_pictures(project):
    cells = json.loads((project / "reports" / "pretrain.ipynb").read_text())["cells"]
    injected = "".join(
        next(c for c in cells if "injected-parameters" in c["metadata"].get("tags", []))["source"]
    )
    assert "steps = 6" in injected and "features = 8" in injected
    pictures = sum("image/jpeg" in o.get("data", {}) for c in cells for o in c.get("outputs", []))
    assert pictures >= 4


def test_a_second_repro_runs_nothing_and_a_parameter_reruns_its_stage_and_those_after_it(project, tmp_path):
    assert repro(project) == []
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    set_params(folder / "params.yaml", ["train_baenet.lr=0.0005"])
    again = ["evaluate@baenet", "finetune@baenet", "results", "train_baenet"]
    assert sorted(repro(folder)) == again and repro(folder) == []
    assert repro(folder, "--dry", "capture") == ["capture"]


def test_a_killed_stage_resumes_to_the_same_weights(project, tmp_path):
    """SIGKILL in the middle of S1; the second run continues from the checkpoint and ends bitwise where an
    undisturbed run ends.
    """
    command = [sys.executable, "-m", "debir_nb.pipeline", "run", "pretrain", "steps=110", "batch=1"]
    ends = {}
    for name in ("undisturbed", "killed"):
        folder = tmp_path / name
        shutil.copytree(
            project, folder, ignore=shutil.ignore_patterns("reports", "runs", "live", "models", "cache")
        )
        if name == "killed":
            silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(
                command, cwd=folder, env=environment(folder), start_new_session=True, **silent
            )
            patience = time.monotonic() + 300
            while (
                not (folder / "runs" / "pretrain" / "checkpoint.pt").exists()
                and time.monotonic() < patience
                and process.poll() is None
            ):
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert (folder / "runs" / "pretrain" / "checkpoint.pt").exists() and not (
                folder / "models"
            ).exists()
            time.sleep(2)  # the kernel notices that its parent is gone
        run(folder, *command)
        ends[name] = torch.load(folder / "models" / "restorer_s1.pt", weights_only=True)
        assert not (folder / "runs" / "pretrain" / "checkpoint.pt").exists()
    assert all(torch.equal(a, ends["killed"][k]) for k, a in ends["undisturbed"].items())


def kernel(process):
    "The kernel in which a stage's notebook runs, once there is one."
    patience = time.monotonic() + 120
    while time.monotonic() < patience:
        for child in psutil.Process(process.pid).children(recursive=True):
            if any("ipykernel" in word for word in child.cmdline()):
                return child
        time.sleep(0.05)
    raise AssertionError("no kernel was started")


def hears_ctrl_c():
    "A shell lets what it starts in the background ignore Ctrl-C; a child shall hear it again."
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(folder, *command):
    "A command under way, which hears Ctrl-C."
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "preexec_fn": hears_ctrl_c}
    return subprocess.Popen([str(c) for c in command], cwd=folder, env=environment(folder), **pipes)


def wait_for(path, process):
    "Until a file is there, or the process has ended."
    patience = time.monotonic() + 300
    while not path.exists() and time.monotonic() < patience and process.poll() is None:
        time.sleep(0.05)


@pytest.mark.parametrize("by", ["kernel", "keyboard", "SIGTERM"])
def test_a_stage_that_is_killed_says_so_in_one_sentence(project, tmp_path, by):
    """The kernel, as for want of memory, the stage by Ctrl-C or `kill`; the next run begins at the
    checkpoint.
    """
    folder = tmp_path / "project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("reports", "runs", "live", "cache"))
    command = [sys.executable, "-m", "debir_nb.pipeline", "run", "pretrain", "steps=110", "batch=1"]
    process = started(folder, *command)
    victim, checkpoint = kernel(process), folder / "runs" / "pretrain" / "checkpoint.pt"
    wait_for(checkpoint, process)
    if by == "kernel":
        victim.kill()
    else:
        process.send_signal(signal.SIGINT if by == "keyboard" else signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "Traceback" not in said, said[-3000:]
    step = done_before(checkpoint.parent)
    assert step > 0 and said.strip().endswith(
        f"pretrain was killed; run the same command again: it goes on at step {step}"
    )
    assert not (folder / "reports" / "pretrain.ipynb").exists() and not victim.is_running()
    again = run(folder, *command)
    assert (folder / "reports" / "pretrain.ipynb").exists() and "killed" not in again
    assert not list((folder / "runs").glob(".*")) and not checkpoint.exists()


def test_a_stage_has_one_runner_and_ends_with_dvc(project, tmp_path, monkeypatch):
    """DVC is killed alone, as for want of memory: its stage does not go on beside the next run, though a shell
    stands between them that stays, as `sh` does.
    """
    monkeypatch.setenv("SHELL", "/bin/sh")
    folder = tmp_path / "project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("live", "runs"))
    set_params(folder / "params.yaml", ["pretrain.steps=300", "pretrain.batch=1"])
    process = started(folder, sys.executable, "-m", "dvc", "repro", "-s", "pretrain")
    wait_for(folder / "runs" / "pretrain" / "checkpoint.pt", process)
    family = psutil.Process(process.pid).children(recursive=True)
    said = run(folder, sys.executable, "-m", "debir_nb.pipeline", "run", "pretrain", ok=False)
    assert re.search(r"error: the run pretrain: another process \(number \d+\) is at it", said), said
    process.kill()
    assert family and not psutil.wait_procs(family, timeout=30)[1]
    process.communicate()


TWO = [
    "accelerate",
    "launch",
    "--multi_gpu",
    "--num_processes",
    2,
    "--num_machines",
    1,
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "--main_process_port",
    0,
    "-m",
    "debir_nb.pipeline",
    "run",
]
TRAINED = {
    "pretrain": "pretrain",
    "warm_up": "warm_up",
    "train_baenet": "train_baenet",
    "finetune": "finetune-baenet",
}  # stage -> its record in live/


@pytest.fixture(scope="module")
def shared(project, tmp_path_factory):
    "A copy of the finished run, in which stages are trained again by two processes."
    return Path(shutil.copytree(project, tmp_path_factory.mktemp("shared") / "project"))


def record(folder, stage, name="loss"):
    "One number of a training, step after step."
    return [
        float(line.split("\t")[-1])
        for line in (
            (folder / "live" / TRAINED[stage] / "plots" / "metrics" / f"{name}.tsv")
            .read_text()
            .splitlines()[1:]
        )
    ]


@pytest.mark.parametrize("stage", TRAINED)
def test_two_processes_give_the_losses_of_one(project, shared, stage):
    """Sums in another order differ in their last bits, which Adam's first steps amplify (another number of
    threads does the same): the first two steps agree to those bits, the others closely.
    """
    before, alone, norms = (
        {p.name for p in (shared / "runs").iterdir()},
        record(project, stage),
        record(project, stage, "grad_norm"),
    )
    models = shutil.copytree(shared / "models", shared / "models_of_one", dirs_exist_ok=True)
    shutil.rmtree(shared / "live" / TRAINED[stage])
    override = ["policy=baenet"] if stage == "finetune" else []
    run(shared, *TWO, stage, *override)
    # the next stage starts from the same networks, too
    shutil.copytree(models, shared / "models", dirs_exist_ok=True)
    assert (
        len(alone) == 6
        and record(shared, stage)[:2] == pytest.approx(alone[:2], rel=1e-4)
        and record(shared, stage) == pytest.approx(alone, rel=0.02)
    )
    assert record(shared, stage, "grad_norm")[:2] == pytest.approx(norms[:2], rel=1e-2)
    assert {p.name for p in (shared / "runs").iterdir()} == before and not list(shared.rglob("*.partial*"))


def test_what_is_not_trained_is_not_shared(shared):
    assert "trains nothing that several processes could share" in run(shared, *TWO, "pseudo_gt", ok=False)


def test_an_error_names_the_stage_and_keeps_the_notebook(project, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("reports", "runs", "live", "cache"))
    (folder / "models" / "restorer_s1.pt").write_bytes(
        (folder / "models" / "restorer_s1.pt").read_bytes()[:1000]
    )
    output = run(folder, sys.executable, "-m", "debir_nb.pipeline", "run", "pseudo_gt", ok=False)
    assert (
        "pseudo_gt failed: ValueError" in output
        and "restorer_s1.pt cannot be read" in output
        and "runs/pseudo_gt.ipynb" in output
    )
    assert not (folder / "reports" / "pseudo_gt.ipynb").exists()


def test_footage_without_clips_is_named(project, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("reports", "runs", "live", "cache"))
    shutil.rmtree(folder / "scenes")
    (folder / "empty").mkdir()
    run(folder, sys.executable, "-m", "debir_nb.pipeline", "set", "scenes.footage=empty")
    output = run(folder, sys.executable, "-m", "debir_nb.pipeline", "run", "scenes", ok=False)
    assert (
        "scenes failed: ValueError" in output
        and "holds no clips" in output
        and not (folder / "scenes").exists()
    )


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("scale", SCALES)
def test_notebook_and_params_name_the_same_parameters(stage, scale):
    wanted = declared(stage_notebook(stage))
    text = {name for name, value in wanted.items() if isinstance(value, str)}
    found = stage_parameters(PARAMS | {"scale": scale}, stage, set(wanted), text)
    assert wanted.keys() - text <= set(found) <= wanted.keys()
    for name, value in found.items():
        assert value is None or isinstance(value, (int, float, str)), f"{name} is {value!r}"


def test_dvc_watches_every_section_of_params():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    watched = {}
    for stage in stages.values():
        stage = stage.get("do", stage)
        name = stage["cmd"].split()[4]
        section = name if name in PARAMS else f"experiments.{name}"
        assert "scale" in stage["params"] and section in stage["params"]
        watched[name] = True
    assert set(watched) == set(STAGES)


# Experiments


@pytest.fixture(scope="module")
def graph():
    "The stages of dvc.yaml, every foreach and matrix resolved, by their addresses."
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        return {stage.addressing: stage for stage in repo.index.stages if stage.cmd}


def test_every_command_gives_its_notebook_what_it_declares_and_writes_the_report_that_dvc_expects(graph):
    assert len(graph) > 100
    for address, stage in graph.items():
        name, *changes = stage.cmd.split()[4:]
        overrides, wanted = parse_changes(changes), declared(stage_notebook(name))
        said = overrides.keys() - {"variant"}  # which is seen in the names of files
        assert said <= wanted.keys(), f"{address}: {said - wanted.keys()}"
        numbers = {key for key, value in wanted.items() if not isinstance(value, str)}
        found = given(name, overrides)
        assert all(isinstance(found[key], (int, float)) or found[key] is None for key in numbers), address
        assert f"reports/{names(name, overrides)['run']}.ipynb" in [str(out) for out in stage.outs], address


def test_everything_that_a_stage_needs_is_in_the_repository_or_made_by_a_stage(graph):
    made = {str(out) for stage in graph.values() for out in stage.outs}
    assert len(made) == sum(len(stage.outs) for stage in graph.values()), "two stages write the same file"
    for address, stage in graph.items():
        for need in {str(dep) for dep in stage.deps if not str(dep).startswith("params.yaml")} - {"data"}:
            assert (
                need in made or (ROOT / need).is_file() or any(out.startswith(f"{need}/") for out in made)
            ), f"{address} needs {need}"


def test_dvc_yaml_is_what_follows_from_the_notebooks_and_the_table():
    written = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert written == dvc_yaml(ROOT), "python -m debir_nb.pipeline graph"


def test_every_run_depends_on_what_its_notebook_and_its_words_import(graph):
    for address, stage in graph.items():
        name, *changes = stage.cmd.split()[4:]
        notebook, deps = stage_notebook(name), {str(dep) for dep in stage.deps}
        entries = [POLICIES[word] for word in [parse_changes(changes).get("policy")] if word]
        modules = {path.relative_to(package().parent).as_posix() for path in closure(notebook, *entries)}
        assert {notebook.relative_to(ROOT).as_posix(), *modules} <= deps, address
        assert not [dep for dep in deps if dep.endswith("words.py")], address


TRAININGS = ["pretrain", "warm_up", "train_baenet", "finetune@baenet", "finetune@bracket"]


def stale(folder, *stages):
    "Stages of which DVC says that something they depend on has changed."
    said = json.loads(dvc(folder, "status", "--json", *stages))
    return {stage for stage, found in said.items() if any("changed deps" in one for one in found)}


def test_a_line_in_the_noise_model_is_noticed_and_one_in_a_camera_driver_is_not(project, tmp_path):
    folder, looked_at = tmp_path / "project", [*TRAININGS, "evaluate@baenet", "results"]
    shutil.copytree(project, folder)
    assert stale(folder, *looked_at) == set()
    driver = folder / "debir_nb" / "cameras" / "v4l2.py"
    driver.write_text(driver.read_text() + "# another line\n")
    assert stale(folder, *looked_at) == set()
    noise = folder / "debir_nb" / "light" / "degradation.py"
    noise.write_text(noise.read_text() + "# another line\n")
    assert stale(folder, *looked_at) == set(looked_at)


def test_a_new_policy_makes_nobody_elses_stage_stale(project, tmp_path):
    "A module, a word and a row: its own stages appear, and everything else is as it was."
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    (folder / "debir_nb" / "policies" / "mine.py").write_text("from .rules import bracket as mine\n")
    words = folder / "debir_nb" / "policies" / "words.py"
    text = words.read_text()
    assert text.count("RULES = {") == 1
    words.write_text(text.replace("RULES = {", 'RULES = {\n    "mine": "debir_nb.policies.mine:mine",'))
    table = folder / "experiments.yaml"
    table.write_text(table.read_text() + "mine: {policy: mine, training: [S1, S3]}\n")
    run(folder, sys.executable, "-m", "debir_nb.pipeline", "graph")
    assert stale(folder, *ORDER) == set()
    assert repro(folder, "--dry", "finetune_of@mine") == ["finetune_of@mine"]
    assert "debir_nb/policies/mine.py" in (folder / "dvc.yaml").read_text()


def test_importing_the_list_of_policies_imports_none_of_them():
    said = run(
        ROOT, sys.executable, "-c", "import sys, debir_nb.policies.by_name; print(*sys.modules)"
    ).split()
    here = {name for name in said if name.startswith("debir_nb.policies.")}
    assert here == {f"debir_nb.policies.{name}" for name in ("by_name", "protocol", "words")}


def test_a_second_restorer_overwrites_nothing():
    "Names of files differ wherever two experiments do."
    one = Experiment("baenet", ["S1", "S2-1", "S2-2", "S3"])
    others = [
        replace(one, restorer="merge"),
        replace(one, n_frames=2),
        replace(one, restorer="merge", n_frames=2),
        replace(one, variant="cold"),
        replace(one, policy="uniform"),
        replace(one, training=["S1", "S2-1", "S2-2"]),
    ]
    assert len({e.name for e in [one, *others]}) == 1 + len(others)
    written = [names("finetune", {"policy": e.policy, **e.axes}) for e in [one, *others[:-1]]]
    assert len({found["run"] for found in written}) == len(written)
    assert names("pretrain", {"restorer": "merge"})["suffix"] == "-merge"


def test_the_core_does_not_need_an_experiment(graph):
    needed, queue = set(), ["results"]
    makers = {str(out): address for address, stage in graph.items() for out in stage.outs}
    while queue:
        address = queue.pop()
        needed.add(address)
        queue += [
            makers[str(dep)]
            for dep in graph[address].deps
            if str(dep) in makers and makers[str(dep)] not in needed
        ]
    assert needed == set(ORDER) - {"capture"}


def test_rivals_have_debirs_budget(graph):
    """S2-2 and S3 of every variant take steps and rates from the core's sections, but for the rate of a
    single time, which must not run into its bound, and the short trainings with either gradient; end to end
    takes the sum of what it replaces.
    """
    for address, stage in graph.items():
        name, *changes = stage.cmd.split()[4:]
        own = [change for change in changes if change.startswith(("steps", "batch", "lr"))]
        if name in ("warm_up", "train_baenet", "finetune") and "gradient=" not in stage.cmd:
            uniform = ["lr=experiments.budgets.uniform_lr"] * (address == "train_of@uniform")
            assert own == uniform, address

    def steps(key):
        return referred(
            PARAMS | {"scale": "small"}, re.search(r"steps=(\S+)", graph[f"end_to_end@{key}"].cmd)[1]
        )

    small = {
        stage: at_scale(PARAMS[stage]["steps"], "small")
        for stage in ("pretrain", "warm_up", "train_baenet", "finetune")
    }
    assert (
        steps("baenet-e2e") == sum(small.values())
        and steps("baenet-warm-e2e") == small["train_baenet"] + small["finetune"]
        and steps("baenet-trained-e2e") == small["finetune"]
    )


def test_an_experiment_from_warm_up_to_table(project, tmp_path):
    """One variant of BAENet through DVC; the tables then know it, and say of the others that they were not
    run.
    """
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    printed = run(
        folder,
        sys.executable,
        "-m",
        "debir_nb.pipeline",
        "repro",
        "evaluate@uniform",
        "evaluate@baenet",
        "--jobs",
        2,
    )
    ran = re.findall(r"(\S+): [0-9.]+ min", printed)
    assert (
        sorted(ran)
        == sorted(
            [
                "warm_up_of@uniform",
                "train_of@uniform",
                "finetune_of@uniform",
                "evaluate@uniform",
            ]
        )
        and repro(folder, "evaluate@uniform", "evaluate@baenet") == []
    )
    columns = json.loads((folder / "scores" / "uniform.json").read_text())["columns"]
    assert len(columns["psnr"]) == 8 and all(t == t[:1] * 4 for t in columns["exposures"])
    run(folder, sys.executable, "-m", "debir_nb.pipeline", "run", "tables")
    tables = json.loads((folder / "results" / "tables.json").read_text())
    rows = tables["tables"]["Table 1: exposure policies"]
    assert rows["uniform BAENet (Sec. 6.3)"]["scenes"] == 8 and not rows["Gradient AE"]["run"]
    assert {one["claim"]: one["state"] for one in tables["claims"]}[
        "Table 3: each input of BAENet helps"
    ] == "not run"
    assert (
        "| Gradient AE |" in (folder / "results" / "tables.md").read_text()
        and "not run" in (folder / "results" / "tables.md").read_text()
    )


def test_stages_side_by_side_wait_for_what_they_need_and_for_nothing_else():
    began, pair = [], threading.Barrier(2, timeout=20)

    def stage(name):
        began.append(name)
        if name in ("left", "right"):
            pair.wait()  # until the other one runs, too

    side_by_side({"left": {"first"}, "right": {"first"}, "last": {"left", "right"}}, stage, jobs=2)
    assert began[0] == "first" and set(began[1:3]) == {"left", "right"} and began[3:] == ["last"]
    with pytest.raises(ValueError, match="jobs is 0"):
        side_by_side({"first": set()}, stage, jobs=0)
    side_by_side({}, stage, jobs=1)


def test_after_a_failed_stage_no_other_begins():
    began = []

    def stage(name):
        began.append(name)
        if name == "b":
            raise SystemExit("b failed: read runs/b.log")

    with pytest.raises(SystemExit, match="b failed"):
        side_by_side({"a": set(), "b": {"a"}, "c": {"b"}, "d": {"b"}}, stage, jobs=2)
    assert began == ["a", "b"]


def test_a_stage_that_fails_names_its_log_and_an_unknown_one_is_refused(project, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    set_params(folder / "params.yaml", ["experiments.oracle.n_scenes=1000"])
    output = run(folder, sys.executable, "-m", "debir_nb.pipeline", "repro", "oracle", ok=False)
    assert (
        "oracle failed: read runs/oracle.log" in output
        and "n_scenes is 1000: there are 8 test scenes" in (folder / "runs" / "oracle.log").read_text()
    )
    assert "dvc.yaml has no stage bake" in run(
        folder, sys.executable, "-m", "debir_nb.pipeline", "repro", "bake", ok=False
    )


def test_a_checkpoint_for_another_number_of_frames(project, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("reports", "runs", "live", "cache"))
    pipeline = (sys.executable, "-m", "debir_nb.pipeline", "run", "evaluate")
    output = run(folder, *pipeline, "n_frames=2", ok=False)
    assert "evaluate failed: ValueError" in output and "baenet-n2.pt does not exist: run the stage" in output
    shutil.copy(folder / "models" / "baenet.pt", folder / "models" / "baenet-n2.pt")
    output = run(folder, *pipeline, "n_frames=2", ok=False)
    assert (
        "baenet-n2.pt: mobilenet.classifier.1.weight has shape (5, 1280), the network needs (3, 1280)"
        in output
    )
    scores = (folder / "scores" / "baenet.json").read_bytes()
    output = run(folder, *pipeline, "n_frames=6", ok=False)
    assert "n_frames is 6: its budget asks for 306 ticks" in output
    assert (folder / "scores" / "baenet.json").read_bytes() == scores


def test_unknown_scales_keys_and_stages(tmp_path):
    with pytest.raises(ValueError, match="scale is 'huge': choose one of smoke, small, paper"):
        at_scale(1, "huge")
    with pytest.raises(ValueError, match="none for the scale 'paper'"):
        at_scale({"smoke": 1, "small": 2}, "paper")
    with pytest.raises(ValueError, match="stage is 'bake'"):
        stage_parameters({"scale": "small", "model": {}, "pretrain": {}}, "bake", set())
    with pytest.raises(ValueError, match="pretrain.stepz is neither a number nor a parameter"):
        referred({"scale": "small", "pretrain": {"steps": 3}}, "pretrain.steps+pretrain.stepz")
    with pytest.raises(ValueError, match="differ in lr"):
        stage_parameters({"scale": "small", "model": {}, "pretrain": {"lr": 1}}, "pretrain", set())
    params = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", params)
    (tmp_path / "data").mkdir()
    text = params.read_text()
    refused = {
        "scale=huge": "scale is 'huge'",
        "scale": "write NAME=VALUE",
        "train_baenet.rl=1": "train_baenet.rl is not a parameter",
        "scenes.footage=nowhere": "not a folder",
    }
    for change, words in refused.items():
        with pytest.raises(ValueError, match=words):
            set_params(params, [change])
        assert params.read_text() == text
    set_params(params, ["train_baenet.lr=5e-4"])
    assert read_params(params)["train_baenet"]["lr"] == 5e-4 and "# S2-2" in params.read_text()


def test_the_command_line_teaches():
    printed = run(ROOT, sys.executable, "-m", "debir_nb.pipeline", "--help")
    assert "run pretrain" in printed and "set scale=smoke" in printed
    assert (
        run(ROOT, sys.executable, "-m", "debir_nb.pipeline", "run", "bake", ok=False)
        .strip()
        .startswith("error: stage is 'bake'")
    )


# The README's figures


def test_tables_of_another_run_are_not_printed(tmp_path, capsys):
    "A clone has those of the release; a run of the core leaves them."
    for folder in ("results", "reports"):
        (tmp_path / folder).mkdir()
    for name in ("table", "tables"):
        (tmp_path / "results" / f"{name}.md").write_text(f"{name} of a run")
    print_results(tmp_path)
    assert "tables of a run" not in capsys.readouterr().out
    (tmp_path / "reports" / "tables.ipynb").touch()
    print_results(tmp_path)
    assert "tables of a run" in capsys.readouterr().out


def test_claims_of_the_experiments_reach_the_readme_once_they_were_run(tmp_path):
    shutil.copy(ROOT / "results" / "metrics.json", tmp_path)
    core, three = readme_rows(tmp_path), {"mean": 0.2, "low": -0.1, "high": 0.5}
    tables = {
        "claims": [
            {
                "claim": "Table 3: each input of BAENet helps",
                "state": "inconclusive",
                "differences": {"without the gain": three, "without the motion": None},
            }
        ]
    }
    oracle = {
        "groups": {"all": {"scenes": 120, "oracle - bracket": 1.5, "closed": 0.66, "low": 0.5, "high": 0.8}}
    }
    gradient = {"claims": {"the warm-up helps": {"state": "not shown", "difference": three}}}
    for name, found in {"tables": tables, "oracle": oracle, "gradient": gradient}.items():
        assert readme_rows(tmp_path) == core
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    claim, share, answer = readme_rows(tmp_path)[len(core) :]
    assert (
        claim
        == "| Table 3: each input of BAENet helps | inconclusive: without the gain +0.20 dB [-0.10, +0.50];"
        " without the motion not run | `nbs/results/20_tables.ipynb` |"
    )
    assert (
        "| ahead: 66% [50%, 80%] of +1.50 dB, 120 scenes |" in share
        and "the warm-up helps | not shown: +0.20 dB [-0.10, +0.50] |" in answer
    )


def test_pages_are_written_from_the_metrics_and_nothing_else_changes(tmp_path):
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "results" / "metrics.json", tmp_path / "results" / "metrics.json")
    rows = readme_rows(tmp_path / "results")
    one = next(row for row in rows if "exposure bracketing" in row).split(" | ")[0]
    for name in PAGES:
        (tmp_path / name).write_text(f"# Title\n\n{MARKS[0]}\n{one} | old |\n{MARKS[1]}\n\nThe end.\n")
    for _ in range(2):
        write_readme(tmp_path)
    claims, readme, _ = ((tmp_path / name).read_text() for name in PAGES)
    assert claims == "\n".join(["# Title", "", MARKS[0], *rows, MARKS[1], "", "The end.", ""])
    assert "exposure bracketing" in readme and "the restoration network fuses" not in readme
    lead = json.loads((tmp_path / "results" / "metrics.json").read_text())["differences"]["exposure bracket"][
        "psnr"
    ]
    assert f"{lead['mean']:+.2f} dB" in readme and "| old |" not in readme
    (tmp_path / "README.md").write_text("# Title\n")
    with pytest.raises(ValueError, match="must hold each of these lines once"):
        write_readme(tmp_path)


def test_a_policy_a_restorer_and_a_sensor_of_ones_own_enter_by_a_row(project, tmp_path):
    "The examples of yours/, trained and scored by the stages as they are; nothing else is repeated."
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    entries = {"policy": "policy:OnePixel", "restorer": "restorer:Residual", "sensor": "sensor:Photons"}
    own = ", ".join(f'{axis}: "debir_nb.yours.{entry}"' for axis, entry in entries.items())
    table = folder / "experiments.yaml"
    table.write_text(table.read_text() + f"OnePixel-Residual-Photons: {{{own}, training: [S1, S3]}}\n")
    run(folder, sys.executable, "-m", "debir_nb.pipeline", "graph")
    assert stale(folder, *ORDER) == set()
    assert repro(folder, "evaluate@OnePixel-Residual-Photons") == [
        "pretrain_of@Residual-Photons",
        "finetune_of@OnePixel-Residual-Photons",
        "evaluate@OnePixel-Residual-Photons",
    ]
    weights = torch.load(folder / "models" / "restorer_OnePixel-Residual-Photons.pt")
    assert bytes(weights["_extra_state"]).decode() == "debir_nb.yours.restorer:Residual"
    scores = json.loads((folder / "scores" / "OnePixel-Residual-Photons.json").read_text())
    assert len(scores["columns"]["psnr"]) == 8 and min(scores["columns"]["psnr"]) > 10
