"""Sphinx: notebooks with their outputs, and the library's docstrings with the comments and shapes of its parameters. `make docs` builds the pages."""

import ast
import dataclasses
import inspect
import os
import re
import sys
from configparser import ConfigParser
from pathlib import Path

from docutils import nodes
from fastcore.docments import docments
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
from sources import PAGES  # noqa: E402

ini = ConfigParser()
ini.read(ROOT / "settings.ini", encoding="utf-8")
settings = ini["DEFAULT"]

project, author, copyright, release = (
    settings["lib_name"],
    settings["author"],
    settings["copyright"],
    settings["version"],
)
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx-mathjax-offline"]
html_theme, html_title, html_css_files, html_static_path, html_favicon = (
    "furo",
    project,
    ["site.css"],
    ["static"],
    "static/icon.svg",
)
# quotes in shapes stay as they are
html_copy_source, add_module_names, smartquotes_action = False, False, "D"
nb_execution_mode, nb_output_stderr, nb_merge_streams = "off", "remove", True
myst_enable_extensions = ["dollarmath", "amsmath"]
autodoc_member_order, autodoc_typehints, autodoc_typehints_format = "bysource", "description", "short"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"special-members": "__call__", "undoc-members": True}


def restructured(text):
    """Docstrings are plain words with `code` and $mathematics$; everything else in them is to be read as it
    stands.
    """
    parts = re.split(r"`([^`]+)`|\$([^$]+)\$", text)
    plain = [re.sub(r"([\\*|_`])", r"\\\1", part) for part in parts[::3]]
    marked = [f"``{code}``" if code else f":math:`{tex}`" for code, tex in zip(parts[1::3], parts[2::3])]
    return "".join(word for pair in zip(plain, [*marked, ""]) for word in pair)


def constants(module):
    "A module's public constants with the comments beside them, which autodoc does not see."
    source = inspect.getsource(module)
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign):
            continue
        comments = [
            source.splitlines()[line - 1].partition("  # ")[2] for line in (node.lineno, node.end_lineno)
        ]
        for name in (
            part.id
            for part in ast.walk(node.targets[0])
            if isinstance(part, ast.Name) and part.id in module.__all__
        ):
            yield from (
                "",
                f".. py:data:: {name}",
                "",
                f"   {restructured(next(filter(None, comments), ''))}",
            )


def describe(app, what, name, thing, options, lines):
    """The docstring in reStructuredText, then what the comment beside each parameter says of it: meaning and
    unit.
    """
    if what == "class" and "__init__" in vars(thing) and not dataclasses.is_dataclass(thing):
        lines += inspect.cleandoc(thing.__init__.__doc__ or "").splitlines()
    lines[:] = [restructured(line) for line in lines]
    if what == "module":
        lines += constants(thing)
    if what not in ("class", "exception", "function", "method", "property"):
        return
    said = docments(getattr(thing, "fget", thing), returns=True)
    returned = said.pop("return", None)
    lines += [
        "",
        *(
            f":param {parameter}: {restructured(' '.join(words.split()))}"
            for parameter, words in said.items()
            if words
        ),
    ]
    if returned:
        lines.append(f":returns: {restructured(' '.join(returned.split()))}")


def call(app, what, name, thing, options, signature, returned):
    "A protocol is not called; what implements it is."
    return ("", None) if getattr(thing, "_is_protocol", False) and what == "class" else None


def is_said_elsewhere(app, what, name, thing, skip, options):
    "Fields of a dataclass stand among its parameters."
    return (
        True
        if what == "class"
        and not callable(thing)
        and not isinstance(thing, property | classmethod | staticmethod)
        else None
    )


class Links(SphinxPostTransform):
    """`policies/20_rules` leads to that notebook, within policies/ `20_rules` does, and `bracket` leads to the
    API, as long as only one thing has this name.
    """

    default_priority = 5

    def run(self, **kwargs):
        known = {name: (name, "") for name in self.env.found_docs}
        known |= {source: (Path(page).with_suffix("").as_posix(), "") for source, page in PAGES.items()}
        known["index"] = ("story", "")
        for path, thing in self.env.domains["py"].objects.items():
            if thing.objtype in ("function", "class", "exception"):
                known.setdefault(path.rsplit(".", 1)[1], (thing.docname, thing.node_id))
        here = Path(self.env.docname).parent
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext().removesuffix(".ipynb").removeprefix("nbs/")
            target = known.get(name) or known.get(os.path.normpath(here / name))
            inside = isinstance(literal.parent, nodes.reference | addnodes.pending_xref)
            if target and target[0] != self.env.docname and not inside:
                literal.replace_self(
                    make_refnode(self.app.builder, self.env.docname, *target, literal.deepcopy())
                )


def setup(app):
    app.connect("autodoc-process-docstring", describe)
    app.connect("autodoc-process-signature", call)
    app.connect("autodoc-skip-member", is_said_elsewhere)
    app.add_post_transform(Links)
