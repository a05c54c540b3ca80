"""Mutated files for every reader: each is read in a process with 1 GB and 5 s for a file, and answered by a right value or by the reader's own error.

    python tests/fuzzing.py CASES SEED [READER ...]

prints JSON, for so many files a reader. A reader is a row of READERS: valid files to begin with, how one is read, and the errors that are its own. Whatever else comes out of it, a
signal, no end or no memory, is a fault, and the mutated file is named by its number: the same seed makes it again.
"""

import json
import os
import random
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECONDS, BYTES = 5, 2**30  # for a file
ROOT = Path(__file__).resolve().parents[1]
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


def mutated(data, rng):
    "A file that is nearly valid: a few bytes flipped, cut, doubled, moved, or replaced by words that hurt."
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 16, 200))
        match rng.randrange(8):
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
            case 6 if len(data) > 8:
                data[at : at + 4] = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**16)).to_bytes(4, "little")
            case 7 if rng.random() < 0.2:
                del data[at:]
    return bytes(data)


@dataclass(frozen=True)
class Reader:
    "A reader of files that others may send."

    make: Callable  # folder -> valid files, as bytes
    read: Callable  # path of a file -> anything
    name: str = "file"  # of the file that is read
    errors: tuple = (ValueError,)  # its own


def saved(thing):
    "What torch writes."
    import io

    import torch

    torch.save(thing, file := io.BytesIO())
    return file.getvalue()


def weights(folder):
    from debir_nb.restorers.by_name import fresh_restorer

    return [saved(fresh_restorer(word, 2, 4).state_dict()) for word in ("kernels", "merge")]


def read_weights(path):
    from debir_nb.restorers.by_name import load_restorer

    load_restorer(path)


def baenet(folder):
    from debir_nb.policies.baenet import BAENet

    return [saved(BAENet(2).state_dict())]


def read_baenet(path):
    from debir_nb.weights.pretrained import load_baenet

    load_baenet(path)


def published(folder):
    import torch

    return [saved({"state_dict": {"burstormer.x": torch.zeros(3)}, "epoch": 3})]


def read_published(path):
    from debir_nb.weights.published import read_state_dict

    read_state_dict(path)


def trained(path, steps=3):
    "A training of one layer, resumed from a checkpoint."
    import torch

    from debir_nb.training.loop import fit

    def loss(model, draws, step):
        return model(torch.randn(4, 3, generator=draws)).square().mean(), {}

    settings = dict(lr=0.1, lr_final=0.01, clip=1.0, seed=0, every=1)
    fit(torch.nn.Linear(3, 1), loss, steps=steps, out=path.parent, **settings)


def checkpoint(folder):
    trained(folder / "checkpoint.pt")
    return [(folder / "checkpoint.pt").read_bytes()]


def parameters(folder):
    return [(ROOT / "params.yaml").read_bytes()]


def read_parameters(path):
    from debir_nb.pipeline.params import set_params

    (path.parent / "data").mkdir(exist_ok=True)
    set_params(path, ["pretrain.steps=3"])


def experiments(folder):
    return [(ROOT / "experiments.yaml").read_bytes()]


def read_experiments(path):
    from debir_nb.pipeline.experiments import read_experiments

    for row in read_experiments(path).values():
        assert row.name


def changes(folder):
    return [
        b"pretrain.steps=3",
        b"scale=paper",
        b"pretrain.lr={smoke: 1.0e-3, small: 2, paper: 0}",
        b"scenes.footage=data",
    ]


def read_changes(path):
    import shutil

    from debir_nb.pipeline.params import set_params

    (path.parent / "data").mkdir(exist_ok=True)
    if not (path.parent / "params.yaml").exists():
        shutil.copy(ROOT / "params.yaml", path.parent)
    before = (path.parent / "params.yaml").read_bytes()
    set_params(path.parent / "params.yaml", [path.read_text(errors="replace")])
    (path.parent / "params.yaml").write_bytes(before)


def burst(folder):
    import numpy as np

    from debir_nb.light.dng import write_dng

    for i in range(4):
        write_dng(folder / f"frame_{i + 1}.dng", np.full((32, 32), 900, np.uint16), exposure=0.01, iso=400)
    frames = [{"file": f"frame_{i + 1}.dng", "exposure": 0.01, "gain": 4.0} for i in range(4)]
    whole = {"made_by": "debir_nb 1", "camera": "c", "complete": True, "error": None, "frames": frames}
    return [json.dumps(whole | {"complete": done}, indent=1).encode() for done in (True, False)]


def read_burst(path):
    from debir_nb.cameras.files import raw_files, read_burst

    folder = path.parent.resolve()
    for found in raw_files(path.parent):
        assert folder in found.resolve().parents, f"{found} lies outside"
    read_burst(raw_files(path.parent))


def prepared(path):
    "Whether another capture's manifest may be replaced."
    from debir_nb.cameras.capture import is_manifest

    is_manifest(path)


def table(folder):
    from test_pipeline import tiny_footage

    from debir_nb.light.footage import find_clips
    from debir_nb.scenes import build, plan

    tiny_footage(folder / "clips")
    clips = find_clips(folder / "clips").clips
    made = plan.plan_scenes(
        clips, dict.fromkeys(plan.SPLITS, 1), dict.fromkeys(plan.SPLITS, 32), (0.4, 0.3, 0.3), 228, seed=1
    )
    build.build_scenes(clips, made, folder / "made", 228)
    for split in plan.SPLITS:
        (folder / "made" / split).rename(folder / split)
    return [(folder / "made" / "scenes.csv").read_bytes()]


def read_table(path):
    import torch

    from debir_nb.scenes.store import open_scenes

    store = open_scenes(path.parent, "test", 2)
    store.light(torch.tensor([0])).sums(torch.tensor([[0, 3, 20]]))
    store.colour(torch.tensor([0]))


def scene(folder):
    table(folder)
    (folder / "scenes.csv").write_bytes((folder / "made" / "scenes.csv").read_bytes())
    return [(folder / "test" / "00000.npy").read_bytes()]


def read_scene(path):
    import torch

    from debir_nb.scenes.store import open_scenes

    (path.parent / "test" / "00000.npy").write_bytes(path.read_bytes())
    open_scenes(path.parent, "test", 2).light(torch.tensor([0])).sums(torch.tensor([[0, 3]]))


def sums(folder):
    from debir_nb.disk import write_sum

    for name in ("restorer.pt", "baenet.pt"):
        (folder / name).write_bytes(name.encode())
        write_sum(folder / name)
    return [(folder / "SHA256SUMS").read_bytes()]


def read_sums(path):
    from debir_nb.disk import check_sum

    check_sum(path.parent / "restorer.pt")


def texts(folder):
    return [b"1/1000", b"0.0166s", b"Auto ISO", b'30"', b"12800", b"Hi 1.0", b"bulb", b"ISO 100"]


def read_texts(path):
    "What a camera's controls say."
    from debir_nb.cameras.gphoto2 import SPEEDS, raw_choice, sensitivity

    text = path.read_bytes().decode(errors="replace")
    for read in {*SPEEDS.values(), sensitivity}:
        number = read(text)
        assert number is None or number > 0
    raw_choice([text])


READERS = {
    "weights": Reader(weights, read_weights),
    "baenet": Reader(baenet, read_baenet),
    "published": Reader(published, read_published),
    "checkpoint": Reader(checkpoint, trained, "checkpoint.pt"),
    "params.yaml": Reader(parameters, read_parameters, "params.yaml"),
    "experiments.yaml": Reader(experiments, read_experiments, "experiments.yaml"),
    "changes": Reader(changes, read_changes),
    "manifest.json": Reader(burst, read_burst, "manifest.json", (ValueError, OSError)),
    "foreign manifest": Reader(burst, prepared, "manifest.json"),
    "scenes.csv": Reader(table, read_table, "scenes.csv"),
    "a scene": Reader(scene, read_scene),
    "SHA256SUMS": Reader(sums, read_sums, "SHA256SUMS"),
    "camera controls": Reader(texts, read_texts),
}


def files(reader, seeds, cases, seed):
    "The mutated files, each by its number."
    for i in cases:
        rng = random.Random(f"{reader} {seed} {i}")
        yield i, mutated(rng.choice(seeds), rng)


def child(reader, seeds, cases, seed, folder, into):
    "Read until the end, or until one kills; lines tell how each ended."
    resource.setrlimit(resource.RLIMIT_AS, (used() + BYTES,) * 2)
    kind = READERS[reader]
    for i, data in files(reader, seeds, cases, seed):
        path = folder / kind.name
        path.write_bytes(data)
        os.write(into, f"{i} begun\n".encode())
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            kind.read(path)
            said = "read"
        except kind.errors as error:
            said = "refused" if str(error) and "Traceback" not in str(error) else "fault without a word"
        except BaseException as error:
            said = " ".join(f"fault {type(error).__name__}: {error}"[:200].split())
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(into, f"{i} {said}\n".encode())


def used():
    "Address space of this process, bytes."
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fuzz(reader, cases, seed):
    "How many were read and refused, and every fault."
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    done = {}
    with tempfile.TemporaryDirectory() as folder:
        seeds, folder = READERS[reader].make(Path(folder)), Path(folder)
        for whole in seeds:
            (folder / READERS[reader].name).write_bytes(whole)
            READERS[reader].read(folder / READERS[reader].name)  # as it is, it can be read
        while left := range(len(done), cases):
            out, into = os.pipe()
            if (pid := os.fork()) == 0:
                child(reader, seeds, left, seed, folder, into)
                os._exit(0)
            os.close(into)
            with os.fdopen(out) as file:
                for line in file:
                    i, _, said = line.rstrip("\n").partition(" ")
                    done[int(i)] = said
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if status:
                done[max(done, default=0)] = f"fault {'no end' if status == -signal.SIGALRM else status}"
    faults = {i: said for i, said in done.items() if said.startswith("fault") or said == "begun"}
    return {"cases": len(done), "read": [*done.values()].count("read"), "faults": faults}


if __name__ == "__main__":
    print(json.dumps({name: fuzz(name, int(sys.argv[1]), sys.argv[2]) for name in sys.argv[3:] or READERS}))
