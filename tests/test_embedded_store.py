"The embedded footage comes out of a download without Git, and a damaged file of it does not come out at all."

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from debir_nb.light.footage import find_clips

PROJECT = Path(__file__).resolve().parents[1]
if not (PROJECT / "dvcstore").is_dir():
    pytest.skip("the embedded store is missing", allow_module_level=True)


def dvc(folder, *words):
    return subprocess.run([sys.executable, "-m", "dvc", *words], cwd=folder, capture_output=True, text=True)


def blob(folder, md5):
    return folder / "dvcstore" / "files" / "md5" / md5[:2] / md5[2:]


@pytest.fixture
def download(tmp_path):
    "What a ZIP of the project holds of its footage: no .git."
    shutil.copytree(
        PROJECT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local")
    )
    shutil.copy(PROJECT / "data.dvc", tmp_path)
    tree = yaml.safe_load((tmp_path / "data.dvc").read_text())["outs"][0]["md5"]
    for md5 in (tree, *(entry["md5"] for entry in json.loads(blob(PROJECT, tree).read_text()))):
        blob(tmp_path, md5).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(blob(PROJECT, md5), blob(tmp_path, md5))
    return tmp_path, json.loads(blob(PROJECT, tree).read_text())


def test_a_download_without_git_gets_its_footage_as_the_sentence_says(download):
    folder, listed = download
    with pytest.raises(ValueError, match="not a folder yet") as refusal:
        find_clips(folder / "data")
    first, second = str(refusal.value).split("`")[1].split(" && ")
    assert dvc(folder, *second.split()[1:]).returncode != 0  # DVC looks for Git
    assert dvc(folder, *first.split()[1:]).returncode == 0
    assert dvc(folder, *second.split()[1:]).returncode == 0
    for entry in listed:
        assert hashlib.md5((folder / "data" / entry["relpath"]).read_bytes()).hexdigest() == entry["md5"]


def test_a_damaged_file_of_the_store_is_not_pulled(download):
    folder, listed = download
    dvc(folder, "config", "--local", "core.no_scm", "true")
    victim = next(entry for entry in listed if not entry["relpath"].endswith((".md", ".yaml")))
    content = bytearray(blob(folder, victim["md5"]).read_bytes())
    content[len(content) // 2] ^= 1
    blob(folder, victim["md5"]).chmod(0o644)
    blob(folder, victim["md5"]).write_bytes(content)
    pulled = dvc(folder, "pull", "data.dvc")
    assert pulled.returncode != 0 and not (folder / "data" / victim["relpath"]).exists()
