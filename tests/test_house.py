"""The rules of CONTRIBUTING.md that can be read off the files."""

import ast
import importlib.metadata
import io
import json
import re
import shutil
import subprocess
import sys
import tokenize
from configparser import ConfigParser
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from debir_nb.closure import code_of, imports
from debir_nb.pipeline.readme import MARKS, readme_rows

ROOT = Path(__file__).resolve().parents[1]
# The layers of the compendium, folders of nbs/ and of debir_nb/. Above them all stand core, disk and closure.
WINGS = [
    "light",
    "scenes",
    "policies",
    "restorers",
    "training",
    "scoring",
    "weights",
    "cameras",
    "pipeline",
    "stages",
    "results",
    "explore",
    "course",
    "yours",
]
NOTEBOOKS = sorted((ROOT / "nbs").rglob("[!.]*.ipynb"))
NOTEBOOKS = [path for path in NOTEBOOKS if ".ipynb_checkpoints" not in path.parts]
MODULES = sorted(path for path in (ROOT / "debir_nb").rglob("*.py") if not path.name.startswith("_"))
# lessons and solutions
COURSE = [
    path for path in NOTEBOOKS if path.parent.name in ("course", "solutions") and path.stem != "10_checks"
]
RUN_BY_DVC = [path for path in NOTEBOOKS if path.parent.name in ("stages", "results")]
COLUMNS = 110
CLASS_LINES = 60  # of a body; longer ones are told method by method
UNPINNED = {"torchvision", "pyiqa"}  # must match the machine's build of torch


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.relative_to(ROOT).as_posix())


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def exports(path):
    "Whether a notebook is the source of a module."
    source = "\n".join("".join(cell["source"]) for cell in cells(path))
    return bool(re.search(r"^#\| *(default_exp|exports?)\b", source, re.MULTILINE))


def home(module):
    "The notebook that exports a module."
    source = re.search(r"File to edit: ([./]*nbs/\S+\.ipynb)", module.read_text(encoding="utf-8"))
    assert source, f"{module.relative_to(ROOT)} does not come from a notebook"
    return module.parent.joinpath(source[1]).resolve()


def imported(path):
    "The modules of the package that a notebook or module imports."
    files = (ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in imports(path))
    return {file for file in files if ROOT / "debir_nb" in file.parents and file.is_file()} - {path}


def place(notebook):
    """Place of a notebook in the order of the compendium: its wing, then its number. Nobody can import from a
    lesson, so that it may stand after the checks that it uses.
    """
    wing, *_ = notebook.relative_to(ROOT / "nbs").parts
    number = re.match(r"\d+", notebook.stem)
    if wing == notebook.name:  # at the top
        return (-1, int(number[0])) if number else (len(WINGS), 0)
    return WINGS.index(wing), 100 if notebook in COURSE else int(number[0])


def tracked():
    "Files of the repository; where Git does not answer, every file outside ignored folders."
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = [name for name in git.stdout.split("\0") if name]
    if git.returncode or not names:
        ignored = {
            ".git",
            ".venv",
            "data",
            "runs",
            "__pycache__",
            "debir_nb.egg-info",
            ".pytest_cache",
            ".ruff_cache",
        }
        names = [
            p.relative_to(ROOT).as_posix()
            for p in ROOT.rglob("*")
            if not ignored & set(p.relative_to(ROOT).parts)
        ]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


# Notebooks


@by_name(NOTEBOOKS)
def test_a_notebook_opens_with_title_and_promise(path):
    first = cells(path)[0]
    title, *rest = [line for line in "".join(first["source"]).splitlines() if line.strip()]
    assert first["cell_type"] == "markdown" and title.startswith("# ") and rest[0].startswith("> ")


@by_name(COURSE)
def test_the_course_says_what_you_will_learn_and_exports_nothing(path):
    opening = "".join(cells(path)[0]["source"])
    assert opening.split("You will learn\n\n")[1].split("\n\n")[0].count("\n- ") == 2
    assert "See also: " in opening
    assert not exports(path) and (path.parent / ".notest").exists()


@by_name([*NOTEBOOKS, *MODULES])
def test_imports_point_up(path):
    "To wings that stand above in the list, and to smaller numbers of the same wing."
    source = home(path) if path in MODULES else path
    for module in imported(path):
        up = place(home(module)) < place(source) or home(module) == source
        assert up, f"{path.relative_to(ROOT)} imports from {home(module).relative_to(ROOT)}"


def test_no_import_goes_round_in_a_circle():
    graph = {path: imported(path) for path in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # a CycleError names the circle


def test_the_wings_are_told_in_their_order():
    assert f"of the house: {', '.join(WINGS)}." in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = re.findall(r"^  (\w+)/ ", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert folders == WINGS


def test_notebooks_and_modules_are_in_the_same_wings():
    for path in MODULES:
        assert home(path).parent == ROOT / "nbs" / path.parent.relative_to(ROOT / "debir_nb"), path
    wings = {path.name for path in (ROOT / "nbs").iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert wings == {*WINGS}


@by_name([*MODULES, *RUN_BY_DVC])
def test_the_names_of_the_package_itself_are_for_people(path):
    "Through `from debir_nb import BAENet` nobody sees what a stage depends on."
    for node in ast.walk(code_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module == "debir_nb":
            assert {f"debir_nb.{alias.name}" for alias in node.names} <= imports(path), ast.unparse(node)


@by_name(RUN_BY_DVC)
def test_stages_have_parameters_and_export_nothing(path):
    tags = [tag for cell in cells(path) for tag in cell["metadata"].get("tags", [])]
    assert tags.count("parameters") == 1 and not exports(path)


def test_dvc_runs_the_stages_and_results_and_nbdev_test_leaves_them_out():
    run = re.findall(r"nbs/(?:stages|results)/\w+\.ipynb", (ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert {ROOT / name for name in run} == {*RUN_BY_DVC}
    assert all((ROOT / "nbs" / wing / ".notest").is_file() for wing in ("stages", "results"))


def test_what_is_exported_from_between_the_lessons_is_tested_too():
    "nbdev_test leaves out a folder with the file .notest; the Makefile names what it shall run there."
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    apart = [path for path in NOTEBOOKS if exports(path) and (path.parent / ".notest").exists()]
    assert apart and all(path.relative_to(ROOT).as_posix() in makefile for path in apart)


def test_export_and_clean_change_nothing(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ["settings.ini", "pyproject.toml", "README.md"]:
        shutil.copy(ROOT / name, copy)
    for name in ["nbs", "debir_nb"]:
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".*")
        )

    def snapshot():
        return {
            path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()
        }

    before = snapshot()
    for command in ["nbdev_export", "nbdev_clean"]:
        subprocess.run([Path(sys.executable).with_name(command)], cwd=copy, check=True)
        after = snapshot()
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        assert not changed, f"{command} changes {changed}: run `make export`"


# Form


@pytest.mark.parametrize("command", ["format --check", "check"])
def test_ruff_has_nothing_to_say(command):
    ruff = [Path(sys.executable).with_name("ruff"), *command.split(), "nbs", "docs", "tests", "setup.py"]
    done = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@by_name([*NOTEBOOKS, ROOT / "docs" / "template.ipynb"])
def test_code_is_read_without_scrolling(path):
    wide = {
        f"{cell['id']}: {line.rstrip()}"
        for cell in cells(path)
        for line in cell["source"]
        if cell["cell_type"] == "code" and len(line.rstrip("\n")) > COLUMNS
    }
    assert not wide, f"over {COLUMNS} columns:\n" + "\n".join(wide)


def sizes(kind, path):
    "(lines, module, name) of each class or function of a module."
    for node in ast.walk(code_of(path)):
        if isinstance(node, kind):
            yield node.end_lineno - node.lineno + 1, path.relative_to(ROOT).as_posix(), node.name


@by_name(MODULES)
def test_no_class_is_a_long_read(path):
    long = {name: n - 1 for n, _, name in sizes(ast.ClassDef, path) if n - 1 > CLASS_LINES}
    assert not long, f"lines: {long}; tell it method by method, at most {CLASS_LINES}"


# Documentation of the library


def comments(source):
    "Line number -> comment there, and whether it has the line to itself."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    notes = [token for token in tokens if token.type == tokenize.COMMENT]
    return {note.start[0]: (note.string, note.line.strip() == note.string) for note in notes}


def definitions(body, prefix=""):
    """(qualified name, node) of the public functions, classes and methods of a module, `__init__` and
    `__call__` too.
    """
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (
            node.name in ("__init__", "__call__") or not node.name.startswith("_")
        ):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{prefix}{node.name}.")


def undocumented(name, node, notes):
    "What a definition leaves unsaid: its docstring, a parameter, a field or the value that it returns."
    if node.name not in ("__init__", "__call__") and not ast.get_docstring(node):
        yield f"{name}: no docstring"
    if isinstance(node, ast.ClassDef):
        said = {item.target.id: item for item in node.body if isinstance(item, ast.AnnAssign)}
        said = {field: item.lineno for field, item in said.items() if not field.startswith("_")}
    else:
        a = node.args
        given = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
        said = {x.arg: x.lineno for x in given if x.arg not in ("self", "cls")}
        value = any(
            isinstance(item, ast.Return | ast.Yield) and item.value is not None for item in ast.walk(node)
        )
        nothing = isinstance(node.returns, ast.Constant) and node.returns.value is None
        if value and not nothing:
            said["the returned value"] = node.returns.lineno if node.returns else node.body[0].lineno - 1
    for what, line in said.items():
        above = line > node.lineno and notes.get(line - 1, ("", False))[1]
        if not (line in notes or above) or [*said.values()].count(line) > 1:
            yield f"{name}: {what}"


@by_name(MODULES)
def test_everything_public_is_documented(path):
    source = path.read_text(encoding="utf-8")
    notes = comments(source)
    missing = [
        what for name, node in definitions(ast.parse(source).body) for what in undocumented(name, node, notes)
    ]
    assert not missing, "\n".join(missing)


# Files


def test_sizes():
    limits = {
        path: {".ipynb": 300_000, ".pt": 5_000_000}.get(path.suffix, 2_000_000)
        for path in tracked()
        if "dvcstore" not in path.parts
    }
    large = {
        path.relative_to(ROOT).as_posix(): path.stat().st_size
        for path, limit in limits.items()
        if path.stat().st_size > limit
    }
    assert not large, (
        f"bytes: {large}; notebooks may have 300 KB, weights 5 MB, other files 2 MB, data belongs to DVC"
    )


def committed(name):
    "What Git has of a file: a later run may leave something else in results/."
    done = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True, text=True)
    return None if done.returncode else done.stdout


def test_the_pages_quote_the_released_results(tmp_path):
    "`results/claims.md` every row that is computed from the results, README and the model card some of them."
    if committed("README.md") is None:
        pytest.skip("not a Git checkout")
    for name in ("metrics", "tables", "oracle", "gradient"):
        if found := committed(f"results/{name}.json"):
            (tmp_path / f"{name}.json").write_text(found)
    rows = readme_rows(tmp_path)
    for name, quoted in (("results/claims.md", len(rows)), ("README.md", 10), ("MODEL_CARD.md", 9)):
        lines = committed(name).splitlines()
        said = lines[lines.index(MARKS[0]) + 1 : lines.index(MARKS[1])]
        assert said == [row for row in rows if row in said] and len(said) == quoted, (
            f"{name} does not say what results/*.json do: python -m debir_nb.pipeline readme"
        )


def test_no_file_names_somebodys_home():
    pattern = re.compile(rb"(?<![\w.])(?:/(?:home|Users)/\w+|/root|[A-Z]:\\\\?Users)[/\\]")
    found = [
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if "dvcstore" not in path.parts and pattern.search(path.read_bytes())
    ]
    assert not found


# Dependencies


def settings():
    ini = ConfigParser()
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]


def stated():
    "Every requirement in settings.ini."
    return [
        Requirement(line)
        for key, value in settings().items()
        if key.endswith("requirements")
        for line in value.split()
    ]


def pins():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


def test_every_requirement_has_a_pin_in_its_range():
    pinned = pins()
    for requirement in stated():
        name = canonicalize_name(requirement.name)
        if name in UNPINNED:
            assert name not in pinned
        else:
            assert name in pinned, f"{name} has no pin in constraints.txt"
            assert requirement.specifier.contains(pinned[name]), (
                f"{requirement} excludes the tested {pinned[name]}"
            )


def test_the_environment_is_the_tested_one():
    pinned = pins()
    ours = {canonicalize_name(requirement.name) for requirement in stated()} & pinned.keys()
    installed = {dist: importlib.metadata.version(dist).split("+")[0] for dist in ours}
    assert installed == {dist: pinned[dist] for dist in installed}


def test_conda_repeats_nothing():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = conda["dependencies"]
    assert (python, pip) == (f"python={settings()['min_python']}", "pip")
    assert packages == {"pip": ["-c constraints.txt", "-e .[dev]"]}


@by_name([*MODULES, *NOTEBOOKS])
def test_imports_are_stated(path):
    dists = importlib.metadata.packages_distributions()
    allowed = {canonicalize_name(requirement.name) for requirement in stated()} | {
        "debir-nb",
        "ipython",
    }  # ipython comes with ipykernel
    tops = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"debir_nb"}
    unstated = {
        top for top in tops if not {canonicalize_name(dist) for dist in dists.get(top, [top])} & allowed
    }
    assert not unstated, f"{path.name} imports {unstated}, which settings.ini does not state"


def report():
    "The house in numbers."
    arrows = {(a, b) for a in MODULES for b in imported(a)}
    within = sum(a.parent == b.parent for a, b in arrows)
    rooms = {tuple(path.relative_to(ROOT / "debir_nb").parts[0] for path in arrow) for arrow in arrows}
    code = [cell for path in NOTEBOOKS for cell in cells(path) if cell["cell_type"] == "code"]
    code = [cell for cell in code if "".join(cell["source"]).strip()]
    wide = sum(any(len(line.rstrip("\n")) > COLUMNS for line in cell["source"]) for cell in code)
    top = [
        path for path in (ROOT / "debir_nb").iterdir() if path in MODULES or (path / "__init__.py").is_file()
    ]
    print(f"{len(MODULES)} modules, {len(top)} at the top level")
    print(f"{len(arrows)} imports between modules, {within} of them within a wing")
    print(f"{sum(a != b for a, b in rooms)} imports between what is at the top level")
    print(f"{wide} of {len(code)} code cells ({wide / len(code):.1%}) have a line over {COLUMNS} columns")
    print("longest modules:", sorted((len(p.read_text().splitlines()), p.stem) for p in MODULES)[:-4:-1])
    print("longest classes:", sorted(row for p in MODULES for row in sizes(ast.ClassDef, p))[:-4:-1])
    print("longest functions:", sorted(row for p in MODULES for row in sizes(ast.FunctionDef, p))[:-6:-1])


if __name__ == "__main__":
    report()
