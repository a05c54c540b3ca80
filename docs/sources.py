"""What Sphinx reads: the notebooks as they are committed, a table of contents by their numbers, and a page of the API for each module.

python docs/sources.py FOLDER
"""

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {  # caption in the navigation -> notebooks of this layer, as a pattern of file names
    "Physics": "0*",
    "Networks": "1*",
    "Pipeline": "2*",
    "Cameras": "3*",
    "Results": "4*",
    "Explore": "5*",
    "Your own": "6*",
    "Course": "course/*",
    "Solutions": "course/solutions/*",
    "Library": "api/*",
}
DIRECTIVE = re.compile(r"^#\| *(\w+).*\n?", re.MULTILINE)  # nbdev's: what is exported, what is hidden


def readable(cell):
    "The cell without nbdev's directives; None where one of them hides it."
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return cell
    if {"hide", "default_exp"} & set(DIRECTIVE.findall(source)):
        return None
    return cell | {"source": DIRECTIVE.sub("", source).strip("\n")}


def contents(names):
    "A hidden table of contents with one part for each layer; `ValueError` when a notebook would be in none."
    parts, left = [], set(names)
    for caption, pattern in LAYERS.items():
        found = sorted(
            name for name in names if Path(name).match(pattern) and name.count("/") == pattern.count("/")
        )
        left -= set(found)
        if found:
            parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *found, "```"]))
    if left - {"index"}:
        raise ValueError(
            f"{', '.join(sorted(left))}: no layer of the navigation fits; number the notebook or name the"
            " layer in docs/sources.py"
        )
    return "\n\n".join(parts)


def write(folder):
    "Fill a folder with everything that Sphinx reads."
    shutil.rmtree(folder, ignore_errors=True)
    notebooks = sorted(
        path
        for path in (ROOT / "nbs").rglob("*.ipynb")
        if not any(part.startswith((".", "_")) for part in path.relative_to(ROOT / "nbs").parts)
    )
    modules = sorted(path.stem for path in (ROOT / "debir_nb").glob("[!_]*.py"))
    names = [path.relative_to(ROOT / "nbs").with_suffix("").as_posix() for path in notebooks] + [
        f"api/{module}" for module in modules
    ]
    for path in notebooks:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"] = [cell for cell in map(readable, notebook["cells"]) if cell]
        if path.name == "index.ipynb":
            notebook["cells"].append(
                {"cell_type": "markdown", "id": "contents", "metadata": {}, "source": contents(names)}
            )
        copy = folder / path.relative_to(ROOT / "nbs")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(json.dumps(notebook), encoding="utf-8")
    (folder / "api").mkdir()
    for module in modules:
        (folder / "api" / f"{module}.md").write_text(
            f"# {module}\n\n```{{eval-rst}}\n.. automodule:: debir_nb.{module}\n   :members:\n```\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
