"What a newcomer meets first: every command of README and CONTRIBUTING is run, the numbers are those of the results, the template obeys the house, the wheel works without the repository."

import ast
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from test_house import cells, comments, definitions, undocumented

import debir_nb
from debir_nb.closure import code_of
from debir_nb.disk import save_weights
from debir_nb.policies.baenet import BAENet
from debir_nb.policies.protocol import MOTION_MAX, PREVIEW_GAINS
from debir_nb.restorers.burstormer import Burstormer
from debir_nb.weights.pretrained import NETWORKS, load_pretrained

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "MODEL_CARD.md",
    "docs/running.md",
    "docs/cameras.md",
    "results/README.md",
)
HERE = [
    "debir demo",
    "debir cameras",
    "debir capture --camera simulated --out burst",
    "debir restore burst -o restored.png",
]  # run below, in this order
# what cannot be run as it stands here -> the test that does it at a small size, or checks what it stands on
ELSEWHERE = {
    "make fuzz": "test_fuzz.py::test_a_mutated_file_is_read_or_refused",
    "make soak": "test_soak.py::test_many_bursts_take_no_more_than_a_few",
    "dvc config --local core.no_scm true": (
        "test_embedded_store.py::test_a_download_without_git_gets_its_footage_as_the_sentence_says"
    ),
    "make run": "test_pipeline.py::test_every_stage_leaves_a_report_and_results",
    "make run SCALE=smoke": "test_pipeline.py::test_every_stage_leaves_a_report_and_results",
    "make run FOOTAGE=path": "test_pipeline.py::test_footage_without_clips_is_named",
    "dvc repro": (
        "test_pipeline.py::test_every_command_gives_its_notebook_what_it_declares_and_writes_the_report_that_dvc_expects"
    ),
    "dvc repro results": "test_pipeline.py::test_every_stage_leaves_a_report_and_results",
    "dvc repro evaluate@uniform": "test_pipeline.py::test_an_experiment_from_warm_up_to_table",
    "make experiments": "test_pipeline.py::test_an_experiment_from_warm_up_to_table",
    "dvc exp run -S experiments.other_footage.footage=path other_footage": (
        "test_pipeline.py::test_notebook_and_params_name_the_same_parameters"
    ),
    "python -m debir_nb.pipeline run tables": "test_pipeline.py::test_an_experiment_from_warm_up_to_table",
    "debir export": "test_cli.py::test_export_is_the_trained_network_at_every_gain_motion_and_batch",
    "debir capture --camera v4l2:/dev/video0,black=64,white=1023 --out burst": (
        "test_v4l2.py::test_what_the_driver_does_not_tell_is_declared_in_the_address"
    ),
    "debir expose": "test_cli.py::test_the_manifest_of_a_capture_and_the_previews_that_expose_takes_agree",
    "debir pair short.jpg long.jpg -o out.png": (
        "test_pair_files.py::test_a_pair_is_better_than_either_frame"
    ),
    "debir capture --pair --out pair": (
        "test_short_then_long.py::test_by_the_command_line_the_pair_is_restored_as_pair_does"
    ),
    "debir restore demo/burst demo/bracket -o night.png": (
        "test_cli.py::test_examples_name_files_that_other_examples_make"
    ),
    "debir completion bash": "test_cli.py::test_bash_completes_commands_options_and_folders",
    "debir completion bash > debir.bash && source debir.bash": (
        "test_cli.py::test_examples_name_files_that_other_examples_make"
    ),
    "debir simulate": "test_cli.py::test_a_photograph_is_simulated_without_trained_networks",
    "make test": "test_front_door.py::test_the_targets_of_make_are_there",
    "make test-camera": "test_front_door.py::test_the_targets_of_make_are_there",
    "make test-browser": "test_front_door.py::test_the_targets_of_make_are_there",
    "make bench": "test_front_door.py::test_the_targets_of_make_are_there",
    "make export": "test_house.py::test_export_and_clean_change_nothing",
    "make docs": "test_site.py::test_every_notebook_and_module_has_a_page",
    "conda env create -f environment.yml": "test_house.py::test_conda_repeats_nothing",
    "dvc pull data.dvc": "test_front_door.py::test_the_footage_is_in_the_clone",
    "dvc exp run --queue -S train_baenet.lr=5e-4 results": "test_front_door.py::test_a_queue_tries_a_value",
    "dvc queue start": "test_front_door.py::test_a_queue_tries_a_value",
    "dvc pull": "test_front_door.py::test_a_released_run_is_pulled_and_not_repeated",
    "dvc repro --allow-missing": "test_front_door.py::test_a_released_run_is_pulled_and_not_repeated",
    "pip install 'debir_nb[gphoto2]'": "test_house.py::test_every_requirement_has_a_pin_in_its_range",
    "source .venv/bin/activate && pre-commit install": (
        "test_front_door.py::test_the_hooks_run_what_is_installed"
    ),
    "source .venv/bin/activate && jupyter lab nbs/index.ipynb": (
        "test_browser.py::test_an_explorer_answers_to_the_mouse"
    ),
    "python tests/test_house.py": "test_front_door.py::test_the_house_is_told_in_numbers",
    "python -m debir_nb.pipeline readme": "test_house.py::test_the_pages_quote_the_released_results",
    "python docs/pictures.py": "test_site.py::test_the_pictures_are_those_of_the_released_run",
    "cp docs/template.ipynb nbs/policies/35_mine.ipynb": (
        "test_front_door.py::test_the_template_obeys_the_house"
    ),
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(name):
    "Every command of a page, in blocks and within sentences, without its comment."
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = [
        line.partition(" #")[0].strip()
        for language, block in BLOCK.findall(text)
        if not language
        for line in block.splitlines()
    ]
    starts = r"(?:make|dvc|debir|pip|conda|python|cp|source|pre-commit) "
    return [line for line in blocks if re.match(starts, line)] + re.findall(
        f"`({starts}[^`]*)`", BLOCK.sub("", text)
    )


def test_every_command_is_run_by_a_test():
    said = {command for name in PAGES for command in commands(name)}
    assert said == {
        *HERE,
        *ELSEWHERE,
    }, f"unknown here: {said - {*HERE, *ELSEWHERE}}; no longer said: {({*HERE, *ELSEWHERE}) - said}"
    for test in ELSEWHERE.values():
        file, name = test.split("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{test} does not exist"


def run(command, folder, **env):
    "What a command prints, run in a folder with the installed command line."
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        **env,
    }
    done = subprocess.run(
        command, cwd=folder, env=env, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    "(a folder that was empty before the camera commands ran in it, what they printed, the networks' folder)."
    place = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    for net, name in ((BAENet(), "baenet.pt"), (Burstormer(4, features=8), "restorer.pt")):
        save_weights(net, place / "models" / name)
    (folder := place / "work").mkdir()
    models = {"DEBIR_MODELS": str(place / "models")}
    return folder, [run(command, folder, **models) for command in HERE], models


def test_the_camera_commands_work_from_an_empty_folder(work):
    folder, printed, _ = work
    assert "DEBIR, restored" in printed[0] and (folder / "demo" / "demo.png").exists()
    assert "simulated" in printed[1] and "achieved" in printed[2]
    assert (folder / "restored.png").stat().st_size > 1000
    assert len(list((folder / "burst").glob("*.dng"))) == 4 and (folder / "burst" / "manifest.json").exists()


def blocks(name):
    "The blocks of Python of a page."
    found = BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))
    return [block for language, block in found if language == "python"]


def test_five_lines_lead_from_previews_to_times_and_from_a_folder_to_a_picture(work):
    "README's lines, where the camera commands left a burst; the command line gives the same."
    folder, _, models = work
    (block,) = blocks("README.md")
    assert len(ast.parse(block).body) == 5
    by_command = (folder / "restored.png").read_bytes()
    (folder / "restored.png").unlink()
    (folder / "lines.py").write_text(block)
    printed = run(f"'{sys.executable}' lines.py", folder, PYTHONPATH=str(ROOT), **models)
    said = "debir expose burst/previews/preview.dng --previous burst/previews/previous.dng --json"
    shots = json.loads(run(said, folder, **models))["shots"]
    assert ast.literal_eval(printed) == [shot["exposure"] for shot in shots]
    assert (folder / "restored.png").read_bytes() == by_command


def test_every_other_python_block_defines_something(tmp_path):
    "In the notation of the house: its annotations must exist."
    found = [block for name in PAGES if name != "README.md" for block in blocks(name)]
    assert found
    for block in found:
        assert all(isinstance(node, ast.FunctionDef) for node in ast.parse(block).body)
        block = f"from jaxtyping import Float\nfrom torch import Tensor\n{block}"
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True)


def test_the_package_offers_names_and_imports_nothing():
    "What takes time, torch above all, is imported when a name is used."
    look = (
        "import sys; b = {*sys.modules}; import debir_nb; print(*sorted({*sys.modules} - b), *dir(debir_nb))"
    )
    printed = run(f"'{sys.executable}' -c '{look}'", ROOT).split()
    loaded = [name for name in printed if name.startswith("debir_nb") or name in ("torch", "numpy")]
    assert loaded == ["debir_nb"] and {*debir_nb.__all__} <= {*printed}
    assert {"load_pretrained", "Simulator", "BAENet", "Burstormer", "restore"} <= {*debir_nb.__all__}
    assert all(callable(getattr(debir_nb, name)) for name in debir_nb.__all__)
    with pytest.raises(AttributeError, match="no attribute 'restorer'"):
        _ = debir_nb.restorer


def test_the_house_is_told_in_numbers():
    assert "modules" in run(f"'{sys.executable}' tests/test_house.py", ROOT, PYTHONPATH=str(ROOT))


def test_the_targets_of_make_are_there():
    listed = run("make -o .venv/.stamp help", ROOT)
    for target in {command.split()[1] for command in ELSEWHERE if command.startswith("make ")}:
        assert f"make {target} " in listed
    assert "pytest" in run("make -n -o .venv/.stamp test", ROOT) and "-m browser" in run(
        "make -n -o .venv/.stamp test-browser", ROOT
    )


def test_the_footage_is_in_the_clone():
    code = re.search(r"md5: (\w+)\.dir", (ROOT / "data.dvc").read_text(encoding="utf-8"))[1]
    listing = ROOT / "dvcstore" / "files" / "md5" / code[:2] / f"{code[2:]}.dir"
    assert all(
        (ROOT / "dvcstore" / "files" / "md5" / row["md5"][:2] / row["md5"][2:]).is_file()
        for row in json.loads(listing.read_text(encoding="utf-8"))
    )


@pytest.fixture
def clone(tmp_path):
    "A clone of what is committed, with the outputs of the released run."
    if subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--error-unmatch", "dvc.lock"], capture_output=True
    ).returncode:
        pytest.skip("no released run in this checkout")
    run(f"git clone -q '{ROOT}' clone", tmp_path)
    run("dvc pull", tmp_path / "clone")
    return tmp_path / "clone"


def test_a_released_run_is_pulled_and_not_repeated(clone):
    "Only stages whose notebook or code is no longer that of the release would run, and those after them."
    stages = yaml.safe_load((clone / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    changed = {
        name
        for name, stage in stages.items()
        for dep in stage["deps"]
        if dep["path"].endswith((".ipynb", ".py"))
        and hashlib.md5((clone / dep["path"]).read_bytes()).hexdigest() != dep["md5"]
    }
    plan = run("dvc repro --dry --allow-missing", clone)
    would = set(re.findall(r"Running stage '(.+?)'", plan))
    assert changed & {"scenes", "pretrain", "train_baenet"} <= would and (changed or not would), plan


def test_a_queue_tries_a_value(clone):
    """In a folder of its own, with a stage that needs the released weights and no scenes; a row of the table
    of experiments, and the working tree stays.
    """
    run("dvc exp run --queue -n other -S experiments.figure.gain=600 --single-item figure", clone)
    run("dvc queue start", clone)
    deadline = time.monotonic() + 400
    while (
        re.search("Queued|Running", status := run("dvc queue status", clone)) and time.monotonic() < deadline
    ):
        time.sleep(2)
    assert "Success" in status, status
    row = next(
        row
        for row in csv.DictReader(run("dvc exp show --csv", clone).splitlines())
        if row["Experiment"] == "other"
    )
    lock = yaml.safe_load(
        subprocess.run(
            ["git", "show", f"{row['rev']}:dvc.lock"], cwd=clone, capture_output=True, check=True
        ).stdout
    )
    code = next(out["md5"] for out in lock["stages"]["figure"]["outs"] if out["path"].endswith(".ipynb"))
    report = (clone / ".dvc" / "cache" / "files" / "md5" / code[:2] / code[2:]).read_text(encoding="utf-8")
    assert (
        float(row["experiments.figure.gain"]) == 600
        and '"gain = 600.0' in report
        and not run("git status --short", clone)
    )


def test_the_hooks_run_what_is_installed():
    hooks = [
        hook
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
        for hook in repo["hooks"]
    ]
    for hook in hooks:
        assert shutil.which(Path(hook["entry"].split()[0]).name, path=str(Path(sys.executable).parent)), hook[
            "entry"
        ]
    run("pre-commit validate-config .pre-commit-config.yaml && ruff check", ROOT)


# Words and numbers


@pytest.mark.parametrize("name", PAGES)
def test_links_and_files_that_a_page_names_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(([^)#:]+)\)", text)) | set(
        re.findall(r"`((?:nbs|docs|tests|results|data)/[\w/.]+\w)`", text)
    )
    here = (ROOT / name).parent
    missing = {path for path in named if not (path.startswith("data/") or (ROOT / path).exists())}
    assert named and not [path for path in missing if not (here / path).exists()]


def test_numbers_are_those_of_the_results():
    """Committed page against committed results, but for the rows that `test_the_pages_quote_the_released_results`
    holds: what a later run leaves in results/ is its own.
    """
    files = ("MODEL_CARD.md", "results/table.md")
    shown = [
        subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True)
        for path in files
    ]
    if any(done.returncode for done in shown):
        pytest.skip("not a Git checkout")
    card, table = (done.stdout for done in shown)
    (psnr,) = re.findall(r"DEBIR comes to (\d+\.\d+) dB", card)
    assert f"| DEBIR | {psnr} |" in table
    low, high = (f"{100 * gain:.0f}" for gain in PREVIEW_GAINS)
    for name in ("README.md", "MODEL_CARD.md"):
        assert f"ISO {low} to {high}" in (ROOT / name).read_text(encoding="utf-8")
    low, high = (f"{gain:.0f}" for gain in PREVIEW_GAINS)
    assert f"gains outside of {low} to {high} are clipped, and so is motion above {MOTION_MAX:.0f} px" in card


def test_the_model_card_names_the_shipped_weights():
    "Sizes are those of the networks, and of the released run's restorer; hashes are those of the files."
    text = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
    for net in (*load_pretrained(), Burstormer(4, features=16)):
        assert f"{sum(p.numel() for p in net.parameters()):,}" in text
    rows = re.findall(r"^\| `(\w+\.pt)` \|.*`([0-9a-f]{64})` \|$", text, re.MULTILINE)
    weights = ROOT / "debir_nb" / "weights"
    assert dict(rows) == {n: hashlib.sha256((weights / n).read_bytes()).hexdigest() for n in NETWORKS}


# The template


def test_the_template_obeys_the_house(tmp_path):
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "debir_nb", tmp_path / "debir_nb", ignore=shutil.ignore_patterns("__pycache__"))
    notebook = tmp_path / "nbs" / "policies" / "35_mine.ipynb"
    notebook.parent.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "template.ipynb", notebook)
    before = notebook.read_bytes()
    run(
        "nbdev_export && nbdev_clean && nbdev_test --path nbs/policies/35_mine.ipynb",
        tmp_path,
        PYTHONPATH=str(tmp_path),
    )
    assert notebook.read_bytes() == before and len(before) < 100_000
    lines = [line for line in "".join(cells(notebook)[0]["source"]).splitlines() if line]
    assert (
        lines[0].startswith("# ")
        and lines[1].startswith("> ")
        and lines[2] == "You will learn"
        and sum(line.startswith("- ") for line in lines) == 3
        and lines[-1].startswith("See also:")
    )
    module = (tmp_path / "debir_nb" / "policies" / "mine.py").read_text(encoding="utf-8")
    assert [
        what
        for name, node in definitions(ast.parse(module).body)
        for what in undocumented(name, node, comments(module))
    ] == []
    assert code_of(notebook).body and "*What to see:" in notebook.read_text(encoding="utf-8")


# The wheel


def test_the_wheel_works_without_the_repository(tmp_path):
    "Built by pip, unpacked into an environment that has the packages it needs and nothing of this folder."
    source = tmp_path / "source"
    names = subprocess.run(
        [
            "git",
            "ls-files",
            "-z",
            "debir_nb",
            "*.toml",
            "*.ini",
            "setup.py",
            "*.md",
            "LICENSE",
            "CITATION.cff",
            "MANIFEST.in",
            "constraints.txt",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    if not (source / "setup.py").exists():
        pytest.skip("not a Git checkout")
    run(
        f"'{sys.executable}' -m pip wheel -q --no-deps --no-build-isolation -w '{tmp_path}' '{source}'",
        tmp_path,
    )
    wheel = next(tmp_path.glob("debir_nb-*.whl"))
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("debir_nb/")}
    code = {path.relative_to(source).as_posix() for path in (source / "debir_nb").rglob("*.py")}
    assert packed == code | {f"debir_nb/weights/{name}" for name in (*NETWORKS, "SHA256SUMS")}
    run(f"'{sys.executable}' -m venv '{tmp_path}/env'", tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    place = Path(
        run(f"'{python}' -c 'import sysconfig; print(sysconfig.get_paths()[\"purelib\"])'", tmp_path).strip()
    )
    run(f"'{python}' -m pip install -q --no-deps --no-index '{wheel}'", tmp_path)
    # its packages, but not its editable installs: a .pth beside them is not read
    (place / "shared.pth").write_text(sysconfig.get_paths()["purelib"])
    empty = tmp_path / "empty"
    empty.mkdir()
    clean = {"PYTHONPATH": "", "DEBIR_MODELS": "", "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    assert str(tmp_path) in run("python -c 'import debir_nb; print(debir_nb.__file__)'", empty, **clean)
    assert "usage: debir" in run("debir --help", empty, **clean)
    look = "from debir_nb import load_pretrained as load; b, r = load(); print(type(r).__name__, *r.frames_taken)"
    assert run(f"python -c '{look}'", empty, **clean).split() == ["Kernels", *map(str, range(1, 65))]
