"""What is on disk after a kill, Ctrl-C or a full disk at any moment: nothing lost, and the second run ends as an undisturbed one.

CRASH_POINTS=1000 (`make soak`) tries every point, CRASH_SEED others than usual.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from debir_nb.disk import atomic, is_running, only_writer, save_weights
from debir_nb.light.dng import read_raw
from debir_nb.pipeline.run import STARTED_BY

ROOT = Path(__file__).resolve().parents[1]
POINTS, SEED = os.environ.get("CRASH_POINTS"), os.environ.get("CRASH_SEED", "0")
TRIES = {
    "training": dict(kill=30, interrupt=3, full=5),
    "scenes": dict(kill=8, interrupt=1, full=2),
    "burst": dict(kill=24, interrupt=3, full=4),
    "picture": dict(kill=12, interrupt=1, full=2),
    "release": dict(kill=20, interrupt=1, full=2),
    "parameters": dict(kill=12, interrupt=1, full=2),
}  # work -> how -> at how many of its changes to files
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def python(*arguments, timeout=300, **settings):
    "Run Python on this project; what it printed, and how it ended."
    options = {"env": ENVIRONMENT, "capture_output": True, "text": True, "timeout": timeout} | settings
    return subprocess.run([sys.executable, *map(str, arguments)], **options)


def test_there_are_enough_points_of_killing():
    assert sum(tries["kill"] for tries in TRIES.values()) >= 100  # each is counted below


@pytest.mark.parametrize("work", TRIES)
def test_after_any_end_the_second_run_ends_as_an_undisturbed_one(work):
    tries = {how: POINTS or number for how, number in TRIES[work].items()}
    words = (f"{how}={number}" for how, number in tries.items())
    done = python(ROOT / "tests" / "crash_points.py", work, SEED, *words, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["results"]) == sum(min(int(number), told["count"]) for number in tries.values())
    for found in told["results"]:
        assert found["struck"] or found["how"] == "full", found  # what a cleaner cannot remove may stay
        assert found["again"] == 0 and not found["different"], found
        if found["how"] == "full" and found["struck"]:
            assert "No space left" in found["said"] or "could not be written" in found["said"], found


# Two at once


def test_the_last_of_two_writers_leaves_its_whole_file(tmp_path):
    path = tmp_path / "weights.pt"
    with atomic(path) as first:
        first.write_bytes(b"A" * 1000)
        with atomic(path) as second, open(second, "wb") as file:
            file.write(b"B" * 400)
            file.flush()
            assert not path.exists()
            file.write(b"B" * 600)
        assert path.read_bytes() == b"B" * 1000
    assert path.read_bytes() == b"A" * 1000 and os.listdir(tmp_path) == ["weights.pt"]


WRITER = """
import sys
from debir_nb.disk import atomic
for i in range(40):
    with atomic(sys.argv[1]) as tmp:
        tmp.write_bytes(sys.argv[2].encode() * 300000)
"""


def test_a_reader_sees_whole_files_while_two_write(tmp_path):
    path, seen = tmp_path / "file", set()
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, c], env=ENVIRONMENT) for c in "AB"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            data = path.read_bytes()
            seen.add((len(data), len(set(data))))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen == {(300000, 1)} and os.listdir(tmp_path) == ["file"]


def test_what_is_being_taken_is_not_taken_again(tmp_path):
    from debir_nb.cameras.capture import capture
    from debir_nb.cameras.simulated import open_camera
    from debir_nb.policies.rules import bracket

    folder = tmp_path / "burst"
    with (
        only_writer(folder / "manifest.json"),
        pytest.raises(ValueError, match="another process .* is at it"),
    ):
        capture(open_camera(size=(32, 32)), bracket(4), folder)
    taken = capture(open_camera(size=(32, 32)), bracket(4), folder)
    assert len(taken.frames) == 4 and not list(folder.glob(".*"))


def test_a_process_that_has_ended_does_not_run():
    child = subprocess.Popen([sys.executable, "-c", ""])
    time.sleep(0.5)  # it has ended, and nobody has looked
    assert not is_running(child.pid) and is_running(os.getpid()) and not is_running(2**70)
    child.wait()
    assert not is_running(child.pid)


ENDS_WITH = """
import os, sys, time
from debir_nb.pipeline.run import end_with, on_sigterm, interrupt, starters
with on_sigterm(interrupt):
    end_with(starters())
    print("watching", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("ended", flush=True)
"""


def test_a_stage_ends_with_what_started_it():
    starter = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    environment = ENVIRONMENT | {STARTED_BY: str(starter.pid)}
    stage = subprocess.Popen(
        [sys.executable, "-c", ENDS_WITH], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert stage.stdout.readline() == "watching\n"
    time.sleep(1)
    assert stage.poll() is None
    starter.kill()  # nobody waits for it: it is a zombie
    assert stage.communicate(timeout=20)[0] == "ended\n"
    starter.wait()


# A disk that is full or not ours

LIMITED = """
import resource, sys, torch
from debir_nb.disk import save_weights
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
save_weights(torch.nn.Linear(3, int(sys.argv[2])), sys.argv[1])
"""


def test_weights_that_do_not_fit_on_the_disk_leave_the_old_ones(tmp_path):
    path = tmp_path / "models" / "m.pt"
    save_weights(torch.nn.Linear(3, 2), path)
    before = path.read_bytes()
    done = python("-c", LIMITED, path, 100_000)
    assert done.returncode == 1 and path.read_bytes() == before and os.listdir(path.parent) == ["m.pt"]


@pytest.fixture
def disk(tmp_path):
    "A small file system of its own."
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True)

    if os.geteuid() != 0 or mount("size=4m").returncode:
        pytest.skip("needs to mount a tmpfs, which only root may do")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def debir(*words, **settings):
    "The command `debir`, and that it said one sentence when it failed."
    done = python("-m", "debir_nb.cameras.cli", *words, **settings)
    assert "Traceback" not in done.stderr and (done.returncode == 0 or "error: " in done.stderr), done.stderr
    return done


def test_a_full_disk_keeps_the_frames_that_fit_and_says_so(disk):
    (disk / "filler").write_bytes(bytes(4 * 2**20 - 2**18))  # leaves less than two frames of 128 KB
    done = debir("capture", "--policy", "bracket", "--camera", "simulated", "--out", disk / "burst")
    assert done.returncode and "No space left" in done.stderr
    (disk / "filler").unlink()
    for frame in (disk / "burst").glob("frame_*.dng"):
        read_raw(frame)
    said = json.loads((disk / "burst" / "manifest.json").read_text())
    assert not said["complete"] and len(said["frames"]) < 4
    there = sorted(path.name for path in (disk / "burst").glob("frame_*.dng"))
    assert [row["file"] for row in said["frames"]] == there[: len(said["frames"])]
    assert debir("capture", "--policy", "bracket", "--out", disk / "again").returncode == 0


def test_a_disk_that_cannot_be_written_is_named_before_anything_is_done(disk):
    for name in ("settings.ini", "params.yaml"):
        shutil.copy(ROOT / name, disk)
    for name in ("nbs", "data"):
        (disk / name).mkdir()
    before = sorted(disk.iterdir())
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = debir("capture", "--policy", "bracket", "--out", disk / "burst")
    assert done.returncode and "cannot be written (Read-only file system)" in done.stderr
    for words in (["set", "scale=smoke"], ["repro"]):
        done = python("-m", "debir_nb.pipeline", *words, cwd=disk)
        assert done.returncode and "Read-only file system" in done.stderr and "Traceback" not in done.stderr
    assert sorted(disk.iterdir()) == before


# An unusual environment


def test_a_bare_environment_and_an_odd_name_change_no_byte(tmp_path):
    "No HOME, no TMPDIR, a locale without UTF-8, and a folder whose name a shell would obey."
    odd = tmp_path / "a b'\u00fc$(touch PWNED);"
    bare = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    bare |= {"TMPDIR": str(tmp_path / "nowhere"), "OMP_NUM_THREADS": "1"}
    for folder, environment in ((tmp_path / "plain", ENVIRONMENT), (odd, bare)):
        words = ["capture", "--policy", "bracket", "--out", folder]
        assert debir(*words, env=environment, cwd=tmp_path).returncode == 0
    for name in ("frame_1.dng", "frame_4.dng", "previews/preview.dng"):
        assert (tmp_path / "plain" / name).read_bytes() == (odd / name).read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"plain", odd.name}


def test_few_open_files_are_enough_or_said(tmp_path):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))

    debir("capture", "--policy", "bracket", "--out", tmp_path / "burst", preexec_fn=few)
