"What SECURITY.md promises about the code, read off the code."

import ast
import re
from pathlib import Path

import pytest
from audit import judged

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for path in (ROOT / "debir_nb").rglob("*.py") if not path.name.startswith("_"))


def calls(path):
    "(name of what is called, its keywords) of every call of a module."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_runs_what_a_file_says(path):
    for name, keywords in calls(path):
        assert name not in ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads"), name
        assert keywords.get("shell", "False") == "False", f"{name} uses a shell"
        assert keywords.get("allow_pickle", "False") == "False", name
        assert name != "torch.load" or keywords.get("weights_only") == "True", "torch.load of objects"
        assert name != "YAML" or keywords.get("typ") in (None, "'safe'", "'rt'"), "YAML that makes objects"


def test_jupyter_is_started_on_this_machine_only():
    texts = [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md")]
    for path in texts:
        assert not re.search(
            r"--(ip|NotebookApp|ServerApp|allow-root)\b", path.read_text(encoding="utf-8")
        ), path


def test_an_audit_tells_what_is_weak_and_when_nothing_was_asked():
    weak = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
    known = [{"name": "a", "version": "1.0", "vulns": [weak]}, {"name": "b", "version": "1.0", "vulns": []}]
    skipped = [{"name": "c", "version": "1.0", "skip_reason": "not found"}]
    lines, status = judged({"dependencies": known + skipped})
    assert status == 1 and lines == [
        "a 1.0: PYSEC-1, mended in 2.0",
        "2 packages audited, 1 known weaknesses",
    ]
    assert judged({"dependencies": known[1:]})[1] == 0
    assert judged({"dependencies": skipped}) == (["PyPI does not answer: nothing was audited"], 0)
