"""What Sphinx reads: a gallery that opens the pages, the notebooks with their outputs, the pages about the results, and a page of the API for each module.

python docs/sources.py FOLDER
"""

import base64
import io
import json
import os
import re
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path

from dvc.api import DVCFileSystem
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[1]
WINGS = {  # folder in nbs/ -> its caption in the navigation
    "": "Foundations",
    "light": "Light",
    "scenes": "Scenes",
    "policies": "Policies",
    "restorers": "Restorers",
    "training": "Training",
    "scoring": "Scoring",
    "weights": "Weights",
    "cameras": "Cameras",
    "pipeline": "Pipeline",
    "stages": "Stages",
    "results": "Results",
    "explore": "Explore",
    "course": "Course",
    "course/solutions": "Solutions",
    "yours": "Your own",
}
PAGES = {  # file in the project -> page
    "README.md": "readme.md",
    "docs/running.md": "running.md",
    "docs/cameras.md": "with_cameras.md",
    "results/README.md": "results/found.md",
    "results/claims.md": "results/claims.md",
    "results/table.md": "results/table.md",
    "results/tables.md": "results/tables.md",
    "results/investigations.md": "results/investigations.md",
    "results/real_clips.md": "results/real_clips.md",
    "MODEL_CARD.md": "model_card.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "nbs/index.ipynb": "story.ipynb",
}
BEGIN = ["readme", "story", "running", "with_cameras", "results/found"]  # of the navigation
DIRECTIVE = re.compile(r"^#\| *(\w+).*\n?", re.MULTILINE)  # nbdev's: what is exported, what is hidden
CAPTION = re.compile(r"\*What to see: (.+?)\*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")
OPENING = """# debir_nb

> A camera that takes a burst must choose how long to expose each frame. Here a loss makes that choice, and every step can be read, run and changed.

[The story on one page](story.ipynb), [two commands and five lines of Python](readme.md), [what was found](results/found.md), [the course](course/00_guide.ipynb)

![A noisy preview, four frames that BAENet asked for, the restored picture, and what was there](results/figure.jpg)
"""


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def heading(notebook):
    "The title of a notebook."
    return "".join(notebook["cells"][0]["source"]).splitlines()[0].removeprefix("# ")


# Outputs


def executed():
    """The executed copies of stages, by their names in reports/: those of the working tree, else those that DVC
    keeps.
    """
    files = DVCFileSystem(str(ROOT))
    names = files.ls("reports", detail=False) if files.isdir("reports") else []
    return {Path(name).name: json.loads(files.read_text(name)) for name in names if name.endswith(".ipynb")}


def copy_of(path, copies):
    "The executed copy of a notebook: of the stage itself, or of its run for DEBIR. None where there is none."
    stage = path.stem.partition("_")[2]
    found = [name for name in copies if re.fullmatch(rf"(\d+_)?{stage}(-baenet)?\.ipynb", name)]
    return copies[found[0]] if found else None


def with_outputs(notebook, copy):
    "A notebook with the outputs of its executed copy, and with the parameters that the copy was given."
    outputs = {cell["id"]: cell["outputs"] for cell in copy["cells"] if cell.get("outputs")}
    given = [cell for cell in copy["cells"] if "injected-parameters" in cell["metadata"].get("tags", [])]
    cells = []
    for cell in notebook["cells"]:
        cells.append(cell | {"outputs": outputs.get(cell["id"], [])} if cell["cell_type"] == "code" else cell)
        if "parameters" in cell["metadata"].get("tags", []):
            cells += given
    return notebook | {"cells": cells}


def note(path):
    "What a page says in place of outputs that are not there."
    stage = path.stem.partition("_")[2]
    text = f"*This page shows no outputs: `dvc repro {stage}` computes them and keeps a copy in `reports/`.*"
    return {"cell_type": "markdown", "id": "not-run", "metadata": {}, "source": text}


def pictures(notebook):
    "Cell of a notebook -> its last picture, as the bytes of an image file."
    found = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            for kind, data in output.get("data", {}).items():
                if kind in ("image/png", "image/jpeg"):
                    found[cell["id"]] = base64.b64decode("".join(data))
    return found


def tile(picture):
    "A small JPEG for the gallery, 360 x 240 px: of a row of pictures the first ones, not all of them tiny."
    image = ImageOps.fit(Image.open(io.BytesIO(picture)).convert("RGB"), (360, 240), centering=(0, 0.5))
    image.save(written := io.BytesIO(), "JPEG", quality=85)
    return written.getvalue()


# Pages


def readable(cell):
    "The cell without nbdev's directives; None where one of them hides it."
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return cell
    if {"hide", "default_exp"} & set(DIRECTIVE.findall(source)):
        return None
    return cell | {"source": DIRECTIVE.sub("", source).strip("\n")}


def described(cells):
    "Cells whose pictures say in words what there is to see, as the caption below them does."
    for cell, below in zip(cells, [*cells[1:], {"source": ""}]):
        caption = CAPTION.search("".join(below["source"]))
        if cell["cell_type"] == "code" and caption:
            words = re.sub(r"[$`*\\\n]", "", caption[1])
            cell = cell | {"metadata": cell["metadata"] | {"mystnb": {"image": {"alt": words}}}}
        yield cell


def linked(text, source, page):
    "A text of the project whose links lead to pages, to copies of pictures, or to the file in the repository."
    ini = ConfigParser()
    ini.read(ROOT / "settings.ini", encoding="utf-8")

    def there(link):
        path = os.path.normpath(Path(source).parent / link[1])
        if path in PAGES or path.startswith("nbs/"):
            return os.path.relpath(PAGES.get(path, path.removeprefix("nbs/")), Path(page).parent)
        if path.endswith((".jpg", ".png")):
            return link[1]
        return f"{ini['DEFAULT']['git_url']}/blob/{ini['DEFAULT']['branch']}/{path}"

    return LINK.sub(there, text)


def thumbnail(page):
    "Where the small picture of a page is."
    return f"thumbnails/{page.removesuffix('.ipynb').replace('/', '-')}.jpg"


def tiles(notebooks):
    "One picture of each notebook that has one; it leads to the page."
    for page, notebook in notebooks.items():
        if pictures(notebook):
            name, title = page.removesuffix(".ipynb"), heading(notebook)
            yield f"```{{figure}} {thumbnail(page)}\n:target: {name}.html\n:alt: {title}\n\n{title}\n```"


def toctree(caption, pages):
    "A part of the navigation."
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"])


def gallery(notebooks, library):
    "The first page: a picture of every notebook that has one, and the table of contents of everything."
    parts, contents = [OPENING], [toctree("Begin here", BEGIN)]
    for wing, caption in WINGS.items():
        pages = [page for page in notebooks if page.rpartition("/")[0] == wing and page != "story.ipynb"]
        contents.append(toctree(caption, [page.removesuffix(".ipynb") for page in pages]))
        if shown := list(tiles({page: notebooks[page] for page in pages})):
            parts.append("\n".join([f"## {caption}\n", "````{container} gallery", *shown, "````"]))
    about = [page.removesuffix(".md") for page in PAGES.values() if page.endswith(".md")]
    contents.append(toctree("About", [page for page in about if page not in BEGIN]))
    contents.append(toctree("Library", library))
    return "\n\n".join([*parts, *contents])


def library():
    "Page -> text: one page for each module, and for each wing one that lists its modules."
    modules = [path.relative_to(ROOT / "debir_nb") for path in sorted((ROOT / "debir_nb").rglob("[!_]*.py"))]
    listed = {}
    for module in (path.with_suffix("").as_posix() for path in modules):
        text = f".. automodule:: debir_nb.{module.replace('/', '.')}\n   :members:"
        yield f"api/{module}.md", f"# {module.rpartition('/')[2]}\n\n```{{eval-rst}}\n{text}\n```\n"
        listed.setdefault(module.partition("/")[0], []).append(module)
    for wing in [wing for wing in WINGS if wing in listed]:
        contents = "\n".join(["```{toctree}", *listed[wing], "```"])
        yield f"api/{wing}.md", f"# debir_nb.{wing}\n\n{contents}\n"


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


def read_notebooks():
    "Page -> notebook with its outputs."
    paths = [
        path for path in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts
    ]
    copies, found = executed(), {}
    for path in paths:
        name, notebook = path.relative_to(ROOT / "nbs").as_posix(), read(path)
        if path.parent.name in ("stages", "results"):
            copy = copy_of(path, copies)
            notebook = with_outputs(notebook, copy) if copy else notebook
            if not copy:
                notebook["cells"].insert(1, note(path))
        found[PAGES.get(f"nbs/{name}", name)] = notebook
    return found


def write(folder):
    "Fill a folder with everything that Sphinx reads."
    shutil.rmtree(folder, ignore_errors=True)
    notebooks = read_notebooks()
    for page, notebook in notebooks.items():
        if shown := [*pictures(notebook).values()]:
            put(folder / thumbnail(page), tile(shown[-1]))
        cells = [cell for cell in map(readable, described(notebook["cells"])) if cell]
        put(folder / page, json.dumps(notebook | {"cells": cells}))
    for source, page in PAGES.items():
        if page.endswith(".md"):
            text = linked((ROOT / source).read_text(encoding="utf-8"), source, page)
            put(folder / page, text if text.startswith("# ") else f"# {Path(source).name}\n\n{text}")
    for picture in (ROOT / "results").glob("*.jpg"):
        put(folder / "results" / picture.name, picture.read_bytes())
    pages = dict(library())
    for page, text in pages.items():
        put(folder / page, text)
    put(folder / "index.md", gallery(notebooks, [page for page in pages if page.count("/") == 1]))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
