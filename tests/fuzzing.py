"""Mutated files: each is read in a process with 1 GB and 5 s for a file, and answered by a right value or by the reader's own error.

Whatever else comes out of a reader, a signal, no end or no memory, is a fault, and the mutated file is named by its number: the same seed makes it again. The rows are in
`fuzz_readers.py`.
"""

import ctypes
import os
import pickle
import random
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECONDS, BYTES = 5, 2**30  # for a file
ARENA_MAX = -8  # of mallopt
WORDS = [
    b"\x00",
    b"\xff" * 4,
    b"-1",
    b"1e999",
    b"nan",
    b"null",
    b"[",
    b"{",
    b"&a [*a,*a]",
    b"../",
    b"/dev/zero",
    b"\n",
    b": ",
    b"9" * 40,
]
NUMBERS = [0, 1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1]


def mutated(data, rng):
    "A file that is nearly valid: a few bytes flipped, cut, doubled, moved, zeroed, or replaced by what hurts."
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        # half of the changes hit the first bytes, where formats keep what they say of themselves
        reach = min(len(data), rng.choice((1024, len(data))))
        at, size = rng.randrange(reach + 1), rng.choice((1, 1, 2, 4, 16, 200))
        match rng.randrange(9):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size]
            case 3:
                data[at : at + size] = rng.randbytes(size)
            case 4:
                data[at : at + rng.choice((0, size))] = rng.choice(WORDS)
            case 5:
                other = rng.randrange(len(data) + 1)
                data[at : at + size] = data[other : other + size]
            case 6:
                data[at : at + 4] = rng.choice(NUMBERS).to_bytes(4, rng.choice(("little", "big")))
            case 7:
                data[at : at + size] = bytes(size)
            case 8 if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


@dataclass(frozen=True)
class Reader:
    "A reader of files that others may send."

    make: Callable  # folder -> valid files, as bytes
    read: Callable  # path of a file -> anything
    name: str = "file"  # of the file that is read
    errors: tuple = (
        "ValueError",
    )  # its own, by name: no other class of error, be it derived from one of them


def files(name, seeds, cases, seed):
    "The mutated files, each by its number."
    for i in cases:
        rng = random.Random(f"{name} {seed} {i}")
        yield i, mutated(rng.choice(seeds), rng)


def verdict(reader, path):
    "How a file was answered."
    try:
        reader.read(path)
    except BaseException as error:
        said, kind = str(error), type(error).__name__
        own = kind in reader.errors and said and "\n" not in said and len(said) < 1000
        return "refused" if own else " ".join(f"fault {kind}: {said[:300]}".split())
    return "read"


def child(name, reader, seeds, cases, seed, folder, into):
    "Read until the end, or until one kills; lines tell how each ended."
    for whole in seeds:
        (folder / reader.name).write_bytes(whole)
        reader.read(folder / reader.name)  # as it is, it can be read
    resource.setrlimit(resource.RLIMIT_AS, (used(0) + BYTES,) * 2)
    before = used(1)
    for i, data in files(name, seeds, cases, seed):
        path = folder / reader.name
        path.write_bytes(data)
        os.write(into, f"{i} 0 0 begun\n".encode())
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        said = verdict(reader, path)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(into, f"{i} {time.monotonic() - start:.3f} {used(1) - before} {said}\n".encode())


def used(field):
    "Bytes of this process: its address space (0), or what of it is in memory (1)."
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()


def forked(work, *args):
    "Do it in a process that begins as this one is now; what it writes to its last argument, and how it ended."
    out, into = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            work(*args, into)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(into)
    with os.fdopen(out, "rb") as file:
        written = file.read()
    return written, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def make(reader, folder, into):
    "Valid files. In a process of its own: what FFmpeg's threads leave behind is not to be inherited."
    with os.fdopen(into, "wb") as file:
        pickle.dump(reader.make(folder), file)


def one_run(name, reader, seeds, cases, seed, folder):
    "One child, until it has read them all or dies: how each case ended."
    written, status = forked(child, name, reader, seeds, cases, seed, folder)
    done = {}
    for line in written.decode().splitlines():
        i, seconds, grown, said = line.split(" ", 3)
        done[int(i)] = (float(seconds), int(grown), said)
    if status and not done:
        raise AssertionError(f"{name}: a valid file is not read (see above)")
    if status:
        said = "no end" if status == -signal.SIGALRM else f"ended by {status}"
        done[max(done)] = (float(SECONDS), 0, f"fault {said}")
    return done


def fuzz(name, reader, cases, seed):
    "How many were read and refused, every fault, the slowest (s), and by how much memory grew at most (bytes)."
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    ctypes.CDLL(None).mallopt(
        ARENA_MAX, 1
    )  # an arena for each of FFmpeg's threads reserves 64 MB, and uses none
    warnings.simplefilter("ignore")
    done = {}
    with tempfile.TemporaryDirectory() as folder:
        written, status = forked(make, reader, Path(folder))
        assert status == 0, f"{name}: no valid files (see above)"
        while left := range(len(done), cases):
            done |= one_run(name, reader, pickle.loads(written), left, seed, Path(folder))
    return told(done)


def told(done):
    "A summary of how the cases ended."
    return {
        "cases": len(done),
        "read": sum(said == "read" for *_, said in done.values()),
        "faults": {i: said for i, (*_, said) in done.items() if said not in ("read", "refused")},
        "slowest": max(seconds for seconds, *_ in done.values()),
        "grown": max(grown for _, grown, _ in done.values()),
    }
