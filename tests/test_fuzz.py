"""Mutated files for every reader: a right value or the reader's own error, within 5 s and 1 GB.

FUZZ_CASES=20000 (`make fuzz`) says how many files all readers get together, FUZZ_SEED which.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_readers import READERS
from fuzzing import mutated

ROOT = Path(__file__).resolve().parents[1]
EACH = -(-int(os.environ.get("FUZZ_CASES", 25 * len(READERS))) // len(READERS))


@pytest.fixture(scope="module")
def tried():
    command = [
        sys.executable,
        ROOT / "tests" / "fuzz_readers.py",
        str(EACH),
        os.environ.get("FUZZ_SEED", "0"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("reader", READERS)
def test_a_mutated_file_is_read_or_refused(tried, reader):
    found = tried[reader]
    assert found["cases"] == EACH and not found["faults"], found["faults"]


def test_the_mutations_differ_and_depend_on_the_seed_alone():
    data = bytes(range(256)) * 4
    some = [mutated(data, random.Random(i)) for i in range(200)]
    assert some == [mutated(data, random.Random(i)) for i in range(200)]
    assert len(set(some)) > 150 and sum(one != data for one in some) > 150


HANGS = """
import sys, time
sys.path.insert(0, sys.argv[1])
import fuzzing
fuzzing.SECONDS = 0.3
def read(path):
    if path.read_bytes() == b"a valid file": return
    with open(path.with_name("seen"), "a+") as seen: seen.write("1"); n = seen.tell()
    if n == 1: time.sleep(5)
    if n == 2: bytearray(3 * 2**30)
    if n == 3: import os; os.abort()
    if n == 4: {}["key"]
    raise ValueError("it is damaged")
import json
reader = fuzzing.Reader(lambda folder: [b"a valid file"], read)
print(json.dumps(fuzzing.fuzz("bad", reader, 9, "0")["faults"]))
"""


def test_a_hang_a_crash_and_a_stray_error_are_faults():
    "The machinery itself, on a reader that does all of it."
    done = subprocess.run(
        [sys.executable, "-c", HANGS, ROOT / "tests"], capture_output=True, text=True, timeout=120
    )
    faults = json.loads(done.stdout.splitlines()[-1])
    assert list(faults.values())[:2] == ["fault no end", "fault MemoryError:"] and len(faults) == 4, faults
