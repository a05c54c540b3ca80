"""Ends a piece of work just before each change that it makes to files, does it again, and compares what is then on disk with an undisturbed run.

    python tests/crash_points.py WORK SEED kill=20 interrupt=5 full=5

prints JSON. The interpreter's audit events tell of every change (open for writing, rename, remove, mkdir ...); at one of them the process is killed
(`kill`), gets Ctrl-C (`interrupt`) or a full disk (`full`). Every try is a fork of this process, which has imported everything and started no thread.
"""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import torch

CHANGES = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def training(folder):
    "Optimisation with checkpoints and a record, and the weights."
    from debir_nb.disk import save_weights
    from debir_nb.training.loop import fit

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))

    def loss(model, draws, step):
        x = torch.randn(8, 3, generator=draws)
        return (model(x) - x.sum(1, keepdim=True)).square().mean(), {"first": x[0, 0].item(), "t": 8.0}

    settings = dict(steps=6, lr=0.1, lr_final=0.01, clip=1.0, seed=0, every=3)
    fit(model, loss, out=folder / "runs", live=folder / "live", **settings)
    save_weights(model, folder / "models" / "m.pt")
    (folder / "runs" / "checkpoint.pt").unlink()


def scenes(folder):
    "Footage to stored scenes."
    from test_scenes import SHARES

    from debir_nb.light.footage import find_clips
    from debir_nb.scenes.build import build_scenes
    from debir_nb.scenes.plan import SPLITS, plan_scenes

    clips = find_clips(folder.parent / "footage").clips
    plan = plan_scenes(clips, dict.fromkeys(SPLITS, 1), dict.fromkeys(SPLITS, 32), SHARES, 228, seed=1)
    build_scenes(clips, plan, folder / "scenes", 228)


def camera():
    from debir_nb.cameras.simulated import open_camera

    return open_camera(size=(32, 32))


def burst(folder):
    "A burst of the simulated camera."
    from debir_nb.cameras.capture import capture
    from debir_nb.policies.rules import bracket

    capture(camera(), bracket(4), folder / "burst")


def picture(folder):
    "What becomes of a burst: a RAW file and a picture."
    import numpy as np

    from debir_nb.cameras.files import save_restored
    from debir_nb.light.dng import RawPhoto

    photo = RawPhoto(
        np.full((32, 32), 900, np.uint16), "RGGB", np.zeros((2, 2)), 4095, exposure=0.01, iso=400
    )
    for name in ("restored.dng", "restored.png"):
        save_restored(folder / name, torch.linspace(0, 1, 1024).view(1, 4, 16, 16), photo)


def release(folder):
    "Weights at half the size, with their hash beside them."
    from debir_nb.weights.pretrained import ship

    torch.manual_seed(0)
    for name in ("a.pt", "b.pt"):
        ship(torch.nn.Linear(3, 2), folder / name)


def parameters(folder):
    "Changes of params.yaml."
    from debir_nb.pipeline.params import set_params

    if not (folder / "params.yaml").exists():
        shutil.copy(folder.parent / "params.yaml", folder / "params.yaml")
    for change in ("scale=smoke", "pretrain.steps=7"):
        set_params(folder / "params.yaml", [change])


WORKS = {work.__name__: work for work in (training, scenes, burst, picture, release, parameters)}


class Watch:
    "Counts the changes below a folder, and strikes at one of them."

    def __init__(self, folder, at=-1, how="kill"):
        self.folder, self.at, self.how, self.count = str(folder), at, how, 0

    def __call__(self, event, args):
        if event == "open":
            path, mode, flags = args
            writes = bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool((flags or 0) & WRITES)
        else:
            path, writes = args and args[0], event in CHANGES
        if not (writes and isinstance(path, str | os.PathLike) and str(path).startswith(self.folder)):
            return
        self.count += 1
        if self.count - 1 == self.at:
            self.strike()

    def strike(self):
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "interrupt":
            raise KeyboardInterrupt
        raise OSError(errno.ENOSPC, "No space left on device")


def forked(work, folder, at=-1, how="kill"):
    "Do the work in a process of its own: its end, what it said, and how many changes it made."
    out, into = os.pipe()
    if (child := os.fork()) == 0:
        said, code = "", 0
        watch = Watch(folder, at, how)
        try:
            sys.addaudithook(watch)
            with (
                open(os.devnull, "w") as nowhere,
                contextlib.redirect_stderr(nowhere),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                WORKS[work](folder)
        except BaseException as error:
            said, code = f"{type(error).__name__}: {error}", 1
        watch.at = -1
        os.write(into, json.dumps([watch.count, said]).encode())
        os._exit(code)
    os.close(into)
    with os.fdopen(out, "rb") as file:
        told = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, *(json.loads(told) if told else (0, ""))


def snapshot(folder):
    "Every file and folder, and what is in it."
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def tried(work, folder, at, how, whole):
    "One try: how it ended, and what is different after the second run."
    ended, count, said = forked(work, folder, at, how)
    found = {"at": at, "how": how, "ended": ended, "said": said, "struck": ended != 0}
    found["left"] = sorted(name for name in snapshot(folder) if ".partial" in name)
    if work == "burst":
        return found | bursts(folder)
    again, _, why = forked(work, folder)
    after = snapshot(folder)
    found["different"] = sorted(n for n in whole.keys() | after.keys() if whole.get(n, 0) != after.get(n, 0))
    return found | {"again": again, "why": why}


def bursts(folder):
    """A burst cannot be taken again: what is on disk can be read, and another one is taken there, or
    somewhere else after one sentence.
    """
    from debir_nb.cameras.capture import capture
    from debir_nb.cameras.files import raw_files, read_burst
    from debir_nb.policies.rules import bracket

    place = folder / "burst"
    frames = sorted(p.name for p in place.glob("frame_*.dng"))
    listed = json.loads((place / "manifest.json").read_text()) if (place / "manifest.json").exists() else {}
    lies = [row["file"] for row in listed.get("frames", []) if row["file"] not in frames]
    read = len(read_burst(raw_files(place))) if frames else 0
    try:
        why, again = "", len(capture(camera(), bracket(4), place).frames)
    except ValueError as error:
        why = str(error)
        again = len(capture(camera(), bracket(4), why.rpartition("such as ")[2]).frames)
    kept = sorted(p.name for p in place.glob("frame_*.dng"))[: len(frames)] == frames
    different = lies or not kept or read != len(frames) or (bool(frames) != bool(why))
    left = [p.name for p in folder.rglob("*.partial*") if not frames]
    return {"different": different or left, "again": again - 4, "why": why, "frames": len(frames)}


def prepare(work, base):
    "What a work needs beside its folder."
    if work == "scenes":
        from test_pipeline import tiny_footage

        tiny_footage(base / "footage")
    if work == "parameters":
        shutil.copy(Path(__file__).resolve().parents[1] / "params.yaml", base)
        (base / "run" / "data").mkdir(parents=True)


def main(work, seed, points):
    "Tries at so many points, drawn with the seed; at all of them when there are fewer."
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as base:
        prepare(work, base := Path(base))
        folder, start = base / "run", base / "start"
        folder.mkdir(exist_ok=True)
        shutil.copytree(folder, start)
        shutil.copytree(folder, base / "warm")
        WORKS[work](base / "warm")  # so that what a try imports is there already
        ended, count, said = forked(work, folder)
        assert ended == 0, said
        whole, results = snapshot(folder), []
        for how, number in points.items():
            for at in sorted(random.Random(f"{seed} {how}").sample(range(count), min(number, count))):
                for path in base.glob("run*"):
                    shutil.rmtree(path)
                shutil.copytree(start, folder)
                results.append(tried(work, folder, at, how, whole))
    print(json.dumps({"count": count, "results": results}))


if __name__ == "__main__":
    main(
        sys.argv[1],
        sys.argv[2],
        {how: int(n) for how, _, n in (word.partition("=") for word in sys.argv[3:])},
    )
