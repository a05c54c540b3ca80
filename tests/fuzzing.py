"""Mutated files: each is read in a process with 1 GB and 5 s for a file, and answered by a right value or by the reader's own error.

Whatever else comes out of a reader, a signal, no end or no memory, is a fault, and the mutated file is named by its number: the same seed makes it again. The rows are in
`fuzz_readers.py`.
"""

import os
import random
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECONDS, BYTES = 5, 2**30  # for a file
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
    resource.setrlimit(resource.RLIMIT_AS, (used() + BYTES,) * 2)
    for i, data in files(name, seeds, cases, seed):
        path = folder / reader.name
        path.write_bytes(data)
        os.write(into, f"{i} 0 begun\n".encode())
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        said = verdict(reader, path)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(into, f"{i} {time.monotonic() - start:.3f} {said}\n".encode())


def used():
    "Address space of this process, bytes."
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def one_run(name, reader, seeds, cases, seed, folder, done):
    "One child, until it has read them all or dies; what it says goes into `done`."
    out, into = os.pipe()
    if (pid := os.fork()) == 0:
        child(name, reader, seeds, cases, seed, folder, into)
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as file:
        for line in file:
            i, seconds, said = line.rstrip("\n").split(" ", 2)
            done[int(i)] = (float(seconds), said)
    _, status, usage = os.wait4(pid, 0)
    if status := os.waitstatus_to_exitcode(status):
        said = "no end" if status == -signal.SIGALRM else f"ended by {status}"
        done[max(done, default=0)] = (float(SECONDS), f"fault {said}")
    return usage.ru_maxrss * 1024


def fuzz(name, reader, cases, seed):
    "How many were read and refused, every fault, the slowest (s), and how much memory one process took (bytes)."
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    done, most = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        seeds, folder = reader.make(Path(folder)), Path(folder)
        for whole in seeds:
            (folder / reader.name).write_bytes(whole)
            reader.read(folder / reader.name)  # as it is, it can be read
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        while left := range(len(done), cases):
            most = max(most, one_run(name, reader, seeds, left, seed, folder, done))
    said = [said for _, said in done.values()]
    return {
        "cases": len(done),
        "read": said.count("read"),
        "faults": {i: what for i, (_, what) in done.items() if what not in ("read", "refused")},
        "slowest": max((seconds for seconds, _ in done.values()), default=0),
        "grown": most - before,
    }
