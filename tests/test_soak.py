"""Long use: bursts and restorations in one process, with memory, files and threads as at the beginning.

SOAK=500 (`make soak`) says how many of each.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TIMES = int(os.environ.get("SOAK", 8))
USE = """
import gc, json, os, shutil, sys, tempfile, threading
from pathlib import Path
import psutil, torch
torch.set_num_threads(1)
from debir_nb.cameras.capture import capture
from debir_nb.cameras.files import restore_folder, save_restored
from debir_nb.cameras.simulated import open_camera
from debir_nb.policies.rules import bracket
from debir_nb.restorers.by_name import fresh_restorer

net, me, seen = fresh_restorer(sys.argv[2], 4, 8).eval(), psutil.Process(), []
with tempfile.TemporaryDirectory() as folder:
    for i in range(int(sys.argv[1])):
        place = Path(folder, "burst")
        try:
            capture(open_camera(size=(64, 64), seed=i % 7), bracket(4), place)
        except Exception as error:
            sys.exit(str(error))
        restored, reference = restore_folder(place, net)
        save_restored(Path(folder, "restored.dng"), restored, reference)
        shutil.rmtree(place)
        gc.collect()
        seen.append((me.memory_info().rss, me.num_fds(), threading.active_count()))
    left = sorted(os.listdir(folder))
print(json.dumps({"seen": seen, "left": left}))
"""


@pytest.mark.parametrize("restorer", ["merge", "kernels"] if "SOAK" in os.environ else ["merge"])
def test_many_bursts_take_no_more_than_a_few(restorer):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", USE, str(TIMES), restorer]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    settled, last = told["seen"][TIMES // 2], told["seen"][-1]
    assert len(told["seen"]) == TIMES and told["left"] == ["restored.dng"]
    assert last[1:] == settled[1:]  # open files and threads
    assert last[0] - settled[0] < 16 * 2**20  # bytes
