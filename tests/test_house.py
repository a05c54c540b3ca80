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
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from debir_nb.pipeline.readme import MARKS, readme_rows

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("[!.]*.ipynb"))
# lessons and solutions: they import from everywhere, nothing imports from them
COURSE = sorted((ROOT / "nbs" / "course").rglob("[!.]*.ipynb"))
MODULES = sorted(path for path in (ROOT / "debir_nb").glob("*.py") if not path.name.startswith("_"))
UNPINNED = {"torchvision", "pyiqa"}  # must match the machine's build of torch
STAGE = re.compile(r"[24]\d_|39_")  # what the Makefile keeps out of nbdev_test


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code(path):
    "Syntax tree of a module, or of a notebook's code cells without their magics."
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        source = "\n".join("".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code")
        source = re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.MULTILINE)
    return ast.parse(source, path.name)


def imports(path):
    "Full names of the modules that a module or notebook imports, wherever the statement stands."
    for node in ast.walk(code(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # nbdev writes `from .core import x`
            module = ".".join(filter(None, ["debir_nb" * node.level, node.module]))
            yield from (
                (f"debir_nb.{alias.name}" for alias in node.names) if module == "debir_nb" else [module]
            )


def number(notebook):
    """Place of a notebook in the order of the compendium: '03a_x' is (3, 'a'); one without a number comes
    last.
    """
    match = re.match(r"(\d+)([a-z]?)_", notebook)
    return (int(match[1]), match[2]) if match else (100, "")


def home(module):
    "File name of the notebook that exports a module."
    match = re.search(
        r"File to edit: \.\./nbs/(\S+\.ipynb)",
        (ROOT / "debir_nb" / f"{module}.py").read_text(encoding="utf-8"),
    )
    assert match, f"debir_nb/{module}.py does not come from a notebook"
    return match[1]


def stages():
    "Notebooks that dvc.yaml runs."
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    return sorted({ROOT / name for name in re.findall(r"nbs/\w+\.ipynb", text)})


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


@pytest.mark.parametrize(
    "path", [*NOTEBOOKS, *COURSE], ids=lambda path: path.relative_to(ROOT / "nbs").as_posix()
)
def test_a_notebook_opens_with_title_and_promise(path):
    first = cells(path)[0]
    title, *rest = [line for line in "".join(first["source"]).splitlines() if line.strip()]
    assert first["cell_type"] == "markdown" and title.startswith("# ") and rest[0].startswith("> ")


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.relative_to(ROOT / "nbs").as_posix())
def test_the_course_says_what_you_will_learn_and_exports_nothing(path):
    opening, rest = (
        "".join(cells(path)[0]["source"]),
        "".join("".join(cell["source"]) for cell in cells(path)[1:]),
    )
    assert (
        opening.split("You will learn\n\n")[1].split("\n\n")[0].count("\n- ") == 2 and "See also: " in opening
    )
    assert (
        not re.search(r"^#\| *(default_exp|exports?)\b", rest, re.MULTILINE)
        and (path.parent / ".notest").exists()
    )


@by_name(NOTEBOOKS)
def test_imports_point_to_lower_numbers(path):
    for name in imports(path):
        if name.startswith("debir_nb."):
            source = home(name.split(".")[1])
            assert number(source) <= number(path.name), f"{path.name} imports from {source}"


@by_name(MODULES)
def test_a_module_imports_only_from_lower_numbers(path):
    for name in imports(path):
        if name.startswith("debir_nb."):
            source = home(name.split(".")[1])
            assert number(source) < number(home(path.stem)), f"{path.name} imports from {source}"


def test_stages_have_parameters_and_export_nothing():
    for path in stages():
        tags = [tag for cell in cells(path) for tag in cell["metadata"].get("tags", [])]
        assert tags.count("parameters") == 1, (
            f"{path.name}: {tags.count('parameters')} cells tagged parameters"
        )
        source = "\n".join("".join(cell["source"]) for cell in cells(path))
        assert not re.search(r"^#\| *(default_exp|exports?)\b", source, re.MULTILINE), f"{path.name} exports"


def test_stages_are_the_notebooks_that_nbdev_test_leaves_out():
    assert "STAGES := ^([_.]|[24][0-9]_|39_)" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {path.name for path in stages()} == {path.name for path in NOTEBOOKS if STAGE.match(path.name)}


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


# Documentation of the library


def comments(source):
    "Line number -> comment at the end of that line."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


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
        fields = [(item.target.id, item.end_lineno) for item in node.body if isinstance(item, ast.AnnAssign)]
        said = [(field, line) for field, line in fields if not field.startswith("_")]
    else:
        a = node.args
        defaults = dict(zip([x.arg for x in a.posonlyargs + a.args][::-1], a.defaults[::-1]))
        defaults |= dict(zip([x.arg for x in a.kwonlyargs], a.kw_defaults))
        given = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
        said = [(x.arg, (defaults.get(x.arg) or x).end_lineno) for x in given if x.arg not in ("self", "cls")]
        value = any(
            isinstance(item, ast.Return | ast.Yield) and item.value is not None for item in ast.walk(node)
        )
        nothing = isinstance(node.returns, ast.Constant) and node.returns.value is None
        if value and not nothing and node.body[0].lineno - 1 not in notes:
            yield f"{name}: the returned value"
    lines = [line for _, line in said]
    yield from (f"{name}: {what}" for what, line in said if line not in notes or lines.count(line) > 1)


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
        path: 300_000 if path.suffix == ".ipynb" else 2_000_000
        for path in tracked()
        if "dvcstore" not in path.parts
    }
    large = {
        path.relative_to(ROOT).as_posix(): path.stat().st_size
        for path, limit in limits.items()
        if path.stat().st_size > limit
    }
    assert not large, f"bytes: {large}; notebooks may have 300 KB, other files 2 MB, data belongs to DVC"


def test_the_readme_quotes_the_released_results(tmp_path):
    "What is committed, not what a later run left in results/."

    def committed(name):
        return subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True, text=True)

    if committed("README.md").returncode:
        pytest.skip("not a Git checkout")
    for name in ("metrics", "tables", "oracle", "gradient"):
        shown = committed(f"results/{name}.json")
        if not shown.returncode:
            (tmp_path / f"{name}.json").write_text(shown.stdout)
    between = committed("README.md").stdout.split(MARKS[0])[1].split(MARKS[1])[0]
    assert between.strip().splitlines() == readme_rows(tmp_path), (
        "README.md does not say what results/*.json do: python -m debir_nb.pipeline readme"
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


@by_name([*MODULES, *NOTEBOOKS, *COURSE])
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
