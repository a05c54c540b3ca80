"""Mutated files for the readers: seeded, bounded, and judged.

FUZZ_CASES in the environment is the number of mutations of every seed file (`make fuzz` sets a large one).
"""

import faulthandler
import os
import resource
import signal
import warnings
from pathlib import Path

import numpy as np

CASES = int(os.environ.get("FUZZ_CASES", 20))
SECONDS, MEMORY = 5, 1 << 30  # what a reader may take for one small file
EXTREMES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\1",
    b"\xff\xff\xff\x7f",
)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    "One to four changes: bits, bytes, numbers at their limits, parts cut out, doubled, swapped, or cut off."
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        # half of the changes hit the first bytes, where formats keep what they say of themselves
        reach = min(len(out), 1024) if rng.random() < 0.5 else len(out)
        at, n, kind = int(rng.integers(0, max(1, reach))), int(2 ** rng.uniform(0, 9)), rng.integers(0, 8)
        if kind == 0 and out:
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1 and out:
            out[at] = int(rng.integers(0, 256))
        elif kind == 2:
            out[at : at + 4] = EXTREMES[rng.integers(0, len(EXTREMES))]
        elif kind == 3:
            out[at : at + n] = bytes(rng.integers(0, 256, n).astype(np.uint8))
        elif kind == 4:
            del out[at : at + n]
        elif kind == 5:
            out[at:at] = out[at : at + n]
        elif kind == 6:
            out[at : at + n] = bytes(n)
        else:
            del out[int(rng.integers(0, max(1, len(out)))) :]
    return bytes(out)


def _too_slow(*_):
    raise AssertionError(f"no end after {SECONDS} s")


def judge(read, path: Path, own: tuple[type[Exception], ...]) -> bool:
    "Whether a file was read (or refused by one sentence that names it); fails on anything else."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(12 * SECONDS, exit=True)  # for a library that never comes back
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
        return True
    except own as e:
        assert type(e) in own, f"{type(e).__name__} is somebody else's: {e}"
        assert path.stem in str(e) and "\n" not in str(e) and len(str(e)) < 600, f"no clear sentence: {e}"
        return False
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        assert grown < MEMORY, f"{grown / 1e9:.1f} GB for a file of {path.stat().st_size} bytes"


def attack(read, seed_file: Path, own: tuple[type[Exception], ...], path: Path | None = None) -> int:
    "Read mutations of a file, each as `path`; returns how many were refused. The one that fails stays there."
    data, refused, cases = seed_file.read_bytes(), 0, CASES
    path = path or seed_file.with_stem(f"odd_{seed_file.stem}")
    for case in range(cases):
        path.write_bytes(mutated(data, np.random.default_rng((case, len(data)))))
        try:
            refused += not judge(read, path, own)
        except BaseException as e:
            e.add_note(f"mutation {case} of {seed_file.name}, kept as {path}")
            raise
    return refused
