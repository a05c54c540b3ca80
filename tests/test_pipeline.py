"The pipeline as a user meets it: every stage at smoke size on tiny footage, what reruns when, and what a killed stage leaves."
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import papermill
import pytest
import torch
import yaml

from debir_nb.pipeline import MARKS, SCALES, at_scale, read_params, readme_rows, set_params, stage_parameters, verdict, write_readme

ROOT = Path(__file__).resolve().parents[1]
STAGES = [stage for stage in yaml.safe_load((ROOT/"params.yaml").read_text()) if stage not in ("scale", "model")]
ORDER = ["scenes", "pretrain", "pseudo_gt", "warm_up", "train_baenet", "search_fixed", "finetune@baenet", "finetune@bracket", "finetune@fixed", "results",
         "capture"]


def notebook(stage): return next(ROOT.glob(f"nbs/[0-9][0-9]_{stage}.ipynb"))


def tiny_footage(folder):
    "Three recordings at 240 frames/s that move by 0, 1 and 3 px a frame."
    y, x = np.mgrid[:72, :96].astype(np.float32)
    for name, speed in (("still", 0), ("walk", 1), ("run", 3)):
        (folder/f"{name}_240fps").mkdir(parents=True)
        for k in range(32):
            frame = np.stack([120 + 80*np.sin((x - speed*k)/6 + y/c) for c in (5, 9, 14)], -1)
            cv2.imwrite(str(folder/f"{name}_240fps"/f"{k:03d}.png"), frame.round().astype(np.uint8))


def copy_project(to):
    "The tracked sources of the project in a folder of their own, with tiny footage and the smoke scale."
    skip = shutil.ignore_patterns(".git", ".venv", ".*cache*", ".*.begun", "__pycache__", "*.egg-info", "data", "dvcstore", "scenes", "models", "reports", "runs",
                                  "live", "results", "capture", "pseudo_gt", "tmp", "cache", "dvc.lock")
    shutil.copytree(ROOT, to, ignore=skip)
    tiny_footage(to/"clips")
    run(to, "git", "init", "-q")
    run(to, "git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", "commit", "-q", "--allow-empty", "-m", "a beginning")
    run(to, sys.executable, "-m", "debir_nb.pipeline", "set", "scale=smoke", "scenes.footage=clips")
    return to


def environment(folder):
    "The interpreter of these tests, and the library of that folder."
    return {**os.environ, "PYTHONPATH": str(folder), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "2"}


def run(folder, *command, ok=True):
    "Run a command in a folder; its output. The test fails when the command does and `ok`."
    done = subprocess.run([str(c) for c in command], cwd=folder, env=environment(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0 or not ok, f"{command} failed:\n{done.stdout[-4000:]}"
    return done.stdout


def dvc(folder, *arguments, ok=True): return run(folder, sys.executable, "-m", "dvc", *arguments, ok=ok)


def repro(folder): return re.findall(r"Running stage '([^']+)'", dvc(folder, "repro"))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A finished smoke run, in a folder with a space in its name."
    folder = copy_project(tmp_path_factory.mktemp("a b")/"project")
    output = dvc(folder, "repro")
    assert [s for s in ORDER if f"Running stage '{s}'" not in output] == []
    return folder


def test_every_stage_leaves_a_report_and_results(project):
    reports = {p.stem for p in (project/"reports").glob("*.ipynb")}
    assert {re.sub(r"^\d+_", "", r).split("-")[0] for r in reports} == set(STAGES) and len(reports) == len(ORDER)
    metrics = json.loads((project/"results"/"metrics.json").read_text())
    assert metrics["scenes"] == 8 and set(metrics["policies"]) == {"DEBIR", "bracket", "best fixed"} and "t1 falls with motion" in metrics["claims"]
    printed = run(project, sys.executable, "-m", "debir_nb.pipeline", "results")
    assert "| DEBIR |" in printed and "reports/40_results.ipynb" in printed


def test_reports_hold_the_parameters_of_the_scale_and_pictures(project):
    cells = json.loads((project/"reports"/"21_pretrain.ipynb").read_text())["cells"]
    injected = "".join(next(c for c in cells if "injected-parameters" in c["metadata"].get("tags", []))["source"])
    assert "steps = 6" in injected and "features = 8" in injected
    pictures = sum("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", []))
    assert pictures >= 4


def test_a_second_repro_runs_nothing_and_a_parameter_reruns_its_stage_and_those_after_it(project, tmp_path):
    assert repro(project) == []
    folder = tmp_path/"project"
    shutil.copytree(project, folder)
    set_params(folder/"params.yaml", ["train_baenet.lr=0.0005"])
    assert sorted(repro(folder)) == ["capture", "finetune@baenet", "results", "train_baenet"]
    assert repro(folder) == []


def test_a_killed_stage_resumes_to_the_same_weights(project, tmp_path):
    "SIGKILL in the middle of S1; the second run continues from the checkpoint and ends bitwise where an undisturbed run ends."
    command = [sys.executable, "-m", "debir_nb.pipeline", "run", "pretrain", "steps=110"]
    ends = {}
    for name in ("undisturbed", "killed"):
        folder = tmp_path/name
        shutil.copytree(project, folder, ignore=shutil.ignore_patterns("reports", "runs", "live", "models", "cache"))
        if name == "killed":
            silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command, cwd=folder, env=environment(folder), start_new_session=True, **silent)
            patience = time.monotonic() + 300
            while not (folder/"runs"/"pretrain"/"checkpoint.pt").exists() and time.monotonic() < patience and process.poll() is None: time.sleep(.05)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert (folder/"runs"/"pretrain"/"checkpoint.pt").exists() and not (folder/"models").exists()
            time.sleep(2)  # the kernel notices that its parent is gone
        run(folder, *command)
        ends[name] = torch.load(folder/"models"/"restorer_s1.pt", weights_only=True)
        assert not (folder/"runs"/"pretrain"/"checkpoint.pt").exists()
    assert all(torch.equal(a, ends["killed"][k]) for k, a in ends["undisturbed"].items())


def test_an_error_names_the_stage_and_keeps_the_notebook(project, tmp_path):
    folder = tmp_path/"project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("reports", "runs", "live", "cache"))
    (folder/"models"/"restorer_s1.pt").write_bytes((folder/"models"/"restorer_s1.pt").read_bytes()[:1000])
    output = run(folder, sys.executable, "-m", "debir_nb.pipeline", "run", "pseudo_gt", ok=False)
    assert "pseudo_gt failed: ValueError" in output and "restorer_s1.pt cannot be read" in output and "runs/22_pseudo_gt.ipynb" in output
    assert not (folder/"reports"/"22_pseudo_gt.ipynb").exists()


def test_footage_without_clips_is_named(project, tmp_path):
    folder = tmp_path/"project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("reports", "runs", "live", "cache", "scenes"))
    (folder/"empty").mkdir()
    run(folder, sys.executable, "-m", "debir_nb.pipeline", "set", "scenes.footage=empty")
    output = run(folder, sys.executable, "-m", "debir_nb.pipeline", "run", "scenes", ok=False)
    assert "scenes failed: ValueError" in output and "holds no clips" in output and not (folder/"scenes").exists()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("scale", SCALES)
def test_notebook_and_params_name_the_same_parameters(stage, scale):
    declared = papermill.inspect_notebook(str(notebook(stage)))
    wanted = set(declared) - ({"policy"} if stage == "finetune" else set())
    given = stage_parameters(yaml.safe_load((ROOT/"params.yaml").read_text()) | {"scale": scale}, stage, wanted)
    assert set(given) == wanted
    for name, value in given.items(): assert value is None or isinstance(value, (int, float, str)), f"{name} is {value!r}"


def test_dvc_watches_every_section_of_params():
    stages = yaml.safe_load((ROOT/"dvc.yaml").read_text())["stages"]
    assert set(stages) == set(STAGES)
    for name, stage in stages.items():
        stage = stage.get("do", stage)
        assert "scale" in stage["params"] and name in stage["params"] and str(notebook(name).relative_to(ROOT)) in stage["deps"]


def test_unknown_scales_keys_and_stages(tmp_path):
    with pytest.raises(ValueError, match="scale is 'huge': choose one of smoke, small, paper"): at_scale(1, "huge")
    with pytest.raises(ValueError, match="none for the scale 'paper'"): at_scale({"smoke": 1, "small": 2}, "paper")
    with pytest.raises(ValueError, match="stage is 'bake'"): stage_parameters({"scale": "small", "model": {}, "pretrain": {}}, "bake", set())
    with pytest.raises(ValueError, match="differ in lr"): stage_parameters({"scale": "small", "model": {}, "pretrain": {"lr": 1}}, "pretrain", set())
    params = tmp_path/"params.yaml"
    shutil.copy(ROOT/"params.yaml", params)
    (tmp_path/"data").mkdir()
    text = params.read_text()
    refused = {"scale=huge": "scale is 'huge'", "scale": "write NAME=VALUE", "train_baenet.rl=1": "train_baenet.rl is no parameter",
               "scenes.footage=nowhere": "not a folder"}
    for change, words in refused.items():
        with pytest.raises(ValueError, match=words): set_params(params, [change])
        assert params.read_text() == text
    set_params(params, ["train_baenet.lr=5e-4"])
    assert read_params(params)["train_baenet"]["lr"] == 5e-4 and "# S2-2" in params.read_text()


def test_the_command_line_teaches():
    printed = run(ROOT, sys.executable, "-m", "debir_nb.pipeline", "--help")
    assert "run pretrain" in printed and "set scale=smoke" in printed
    assert run(ROOT, sys.executable, "-m", "debir_nb.pipeline", "run", "bake", ok=False).strip().startswith("error: stage is 'bake'")


# The README's figures

@pytest.mark.parametrize("low, high, said", [(.01, .4, "reproduced"), (-.1, .4, "inconclusive"), (-.4, -.01, "not reproduced")])
def test_a_verdict_follows_from_the_interval(low, high, said): assert verdict({"mean": (low + high)/2, "low": low, "high": high}) == said


def test_the_readme_is_written_from_the_metrics_and_nothing_else_changes(tmp_path):
    (tmp_path/"results").mkdir()
    shutil.copy(ROOT/"results"/"metrics.json", tmp_path/"results"/"metrics.json")
    (tmp_path/"README.md").write_text(f"# Title\n\n{MARKS[0]}\nold figures\n{MARKS[1]}\n\nThe end.\n")
    for _ in range(2): write_readme(tmp_path)
    metrics = json.loads((tmp_path/"results"/"metrics.json").read_text())
    assert (tmp_path/"README.md").read_text() == "\n".join(["# Title", "", MARKS[0], *readme_rows(metrics), MARKS[1], "", "The end.", ""])
    assert f"{metrics['differences']['bracket']['psnr']['mean']:+.2f} dB" in (tmp_path/"README.md").read_text()
    (tmp_path/"README.md").write_text("# Title\n")
    with pytest.raises(ValueError, match="must hold each of these lines once"): write_readme(tmp_path)
    (tmp_path/"results"/"metrics.json").unlink()
    with pytest.raises(ValueError, match="run the pipeline first"): write_readme(tmp_path)
