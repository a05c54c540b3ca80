"""The course: every lesson runs with its solutions, an empty exercise does not pass, and a usual mistake is named."""

import ast
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from debir_nb.cameras.capture import seen_by_policy
from debir_nb.cameras.protocol import Shot, auto_exposure, to_shots
from debir_nb.core import FRAME_TIME, T_MIN, budget
from debir_nb.course import checks as course
from debir_nb.light.simulator import timeline

ROOT = Path(__file__).resolve().parents[1]
COURSE = ROOT / "nbs" / "course"
LESSONS = sorted(COURSE.glob("0[1-6]_*.ipynb"))
SOLUTIONS = [COURSE / "solutions" / lesson.name for lesson in LESSONS]
GUIDE = COURSE / "00_guide.ipynb"
TITLE = re.compile(r"# (Exercise \d)\b")


def cells(path, kind="code"):
    return [
        "".join(cell["source"])
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == kind
    ]


def exercises(path):
    "Exercise cells of a lesson or of its solutions, by their first line."
    return {TITLE.match(source)[1]: source for source in cells(path) if TITLE.match(source)}


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


# The lessons run with the solutions filled in


def run(lesson, folder):
    """What the checks of a lesson say when it is executed, in a process of its own, with the solutions filled
    in.
    """
    notebook, filled = nbformat.read(lesson, as_version=4), exercises(COURSE / "solutions" / lesson.name)
    for cell in notebook.cells:
        title = TITLE.match(cell.source)
        if cell.cell_type == "code" and title:
            cell.source = filled[title[1]]
    nbformat.write(notebook, folder / lesson.name)
    command = [
        "jupyter",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--inplace",
        "--ExecutePreprocessor.timeout=-1",
        folder / lesson.name,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", *command], env=env, capture_output=True, text=True)
    if done.returncode:
        return [done.stderr[-3000:]]
    said = [
        out.get("data", {}).get("text/plain", "")
        for cell in nbformat.read(folder / lesson.name, 4).cells
        for out in cell.get("outputs", [])
    ]
    return [text for text in said if text.startswith(("✓", "✗"))]


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    "What the checks of every lesson say to the solutions; two lessons run at a time, the longest first."
    folder, longest_first = (
        tmp_path_factory.mktemp("course"),
        sorted(LESSONS, key=lambda lesson: lesson.stem[:2] not in ("04", "03")),
    )
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(longest_first, pool.map(lambda lesson: run(lesson, folder), longest_first)))


@by_name(LESSONS)
def test_a_lesson_runs_with_its_solutions(solved, path):
    assert len(solved[path]) == 3 and all(line.startswith("✓ Right.") for line in solved[path]), "\n".join(
        solved[path]
    )


@by_name(LESSONS)
def test_a_lesson_and_its_solutions_pose_the_same_three_exercises(path):
    posed, solved = exercises(path), exercises(COURSE / "solutions" / path.name)
    assert list(posed) == list(solved) == ["Exercise 1", "Exercise 2", "Exercise 3"]
    for title in posed:
        (ours,), (theirs,) = (
            [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
            for source in (posed[title], solved[title])
        )
        assert ours.name == theirs.name and ast.unparse(ours.args) == ast.unparse(theirs.args), title


# An empty exercise does not pass


@by_name(LESSONS)
def test_an_empty_exercise_does_not_pass(path):
    asked = [
        found.groups()
        for found in map(re.compile(r"(?:\w+ = )?(check_\w+)\((\w+)\)").match, cells(path))
        if found
    ]
    assert len(asked) == 3
    for source, (check, name) in zip(exercises(path).values(), asked):
        space = {}
        exec(source, space)
        verdict = getattr(course, check)(space[name])
        assert not verdict and "in place of the dots" in verdict.message, verdict


@by_name(LESSONS)
def test_a_lesson_is_kept_with_its_exercises_open(path):
    outputs = [cell.get("outputs") for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    said = re.findall(r"[✓✗] (?:Right|Not yet)", json.dumps(outputs, ensure_ascii=False))
    assert said == ["✗ Not yet"] * 3


# Every command and code block runs


def blocks(path):
    "Fenced blocks in the text of a notebook: (language, code)."
    return re.findall(r"^```(\w*)\n(.*?)^```", "\n".join(cells(path, "markdown")), re.MULTILINE | re.DOTALL)


def test_all_code_of_lessons_and_guide_is_run():
    for path in [*LESSONS, *SOLUTIONS]:
        assert not blocks(path), f"{path.name}: put code into cells, which the tests run"
    assert [language for language, _ in blocks(GUIDE)] == ["bash"]
    space = {}
    for source in cells(GUIDE):
        exec(source, space)
    assert [bool(space["check_stops"](answer)) for answer in (torch.log, torch.log2)] == [False, True]


@pytest.mark.skipif(
    not (ROOT / ".venv/bin/activate").exists(),
    reason="the guide's commands are for .venv, which is not there",
)
def test_the_command_of_the_guide_opens_the_lessons(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"allow_root": True, "open_browser": False, "ip": "127.0.0.1", "port": port}
    (tmp_path / "jupyter_server_config.json").write_text(
        json.dumps({"ServerApp": settings, "LabApp": settings, "IdentityProvider": {"token": "course"}})
    )
    env = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(tmp_path),
        "JUPYTER_RUNTIME_DIR": str(tmp_path),
        "JUPYTER_DATA_DIR": str(tmp_path),
    }
    ((_, command),) = blocks(GUIDE)
    with open(tmp_path / "log", "w+") as log:
        server = subprocess.Popen(
            ["bash", "-e", "-c", command], cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            for _ in range(240):
                try:
                    found = json.load(
                        urllib.request.urlopen(
                            f"http://127.0.0.1:{port}/api/contents?token=course", timeout=10
                        )
                    )
                    break
                except OSError:
                    time.sleep(0.5)
                assert server.poll() is None, (tmp_path / "log").read_text()
            names = {entry["name"] for entry in found["content"]}
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
    assert {lesson.name for lesson in LESSONS} <= names


# A usual mistake is named


def line(x, y):
    return np.polyfit(x, y, 1)


def ptc(spread):
    "A photon-transfer curve that takes `spread(stacks)` for the variance."

    def answer(stacks):
        return tuple(line(stacks.mean((1, 2, 3)), spread(stacks)))

    return answer


def over_time(stacks):
    return stacks.var(1).mean((1, 2))


def search(of):
    "A best exposure by search, scored by `of(t, a, b, c)`."
    t = torch.logspace(-1, 4, 100_001, dtype=torch.float64)
    return lambda a, b, c: t[of(t, a, b, c).argmin()].item()


def total(t, a, b, c):
    return a / t + b / t**2 + c * t**2


def mean_of(S, start, stop):
    k = torch.arange(len(S))
    weight = (torch.minimum(k + 1, torch.tensor(stop)) - torch.maximum(k, torch.tensor(start))).clamp(min=0)
    return (weight * S).sum() / (stop - start)


def shutter(answer):
    return lambda S, s, e: answer(S[int(s)], S[int(e)], mean_of(S, s, e), e - s)


def waiting(start, stop):
    def answer(n):
        return start(torch.ones(n, n)), stop(torch.ones(n, n))

    return answer


def slope(answer):
    def f(t, signal, shot, read, e):
        g = e / t
        return answer(t, g, math.sqrt(shot * g * signal + read * g * g), shot * signal, read)

    return f


def shares(logits):
    return logits.softmax(1)


def head(answer):
    low, t_u = T_MIN, budget(2)
    return lambda logits: answer(logits, low, t_u)


def good_head(logits, low, t_u):
    return low + (t_u - 2 * low) * shares(logits)[:, :2]


def loss(answer, detach=False, swap=False):
    def f(policy, restore, simulator, light, gain, motion, draws):
        times = policy(None, motion, gain) if swap else policy(None, gain, motion)
        taken = simulator.burst(light, times.detach() if detach else times, gain, draws)
        return answer(restore(taken, motion), simulator.target(light), taken.frames)

    return f


def right_loss(x, y, frames):
    return (x - y).abs().mean()


def interval(ours, theirs, error, width=1.96, sign=1):
    d = sign * (ours - theirs).mean()
    return d, d - width * error, d + width * error


def spread(ours, theirs):
    return (ours - theirs).std()


def drawn(ticks):
    def answer(batch, draws):
        return ticks(torch.rand(batch, 2, generator=draws)) * FRAME_TIME

    return answer


def all_bursts(u):
    a = 8 + 48 * u[:, 0]
    return torch.stack([a, 8 + (56 - a) * u[:, 1]], 1)[:, torch.tensor([0, 1])].where(
        u[:, :1] > 0.5, torch.stack([8 + (56 - a) * u[:, 1], a], 1)
    )


def step(move, joint=False):
    def answer(policy, restorer, loss, lr):
        value = loss(policy, restorer)
        moved = [*policy.parameters(), *(restorer.parameters() if joint else [])]
        for p, g in zip(moved, torch.autograd.grad(value, moved)):
            p.data += move(lr * g)

    return answer


def piled_up(policy, restorer, loss, lr):
    loss(policy, restorer).backward()
    for p in policy.parameters():
        p.data -= lr * p.grad


def dial(key, some=lambda steps, wanted: steps):
    "The step with the least key, among some of them or, where these are none, among all."
    return lambda wanted, steps: min(some(steps, wanted) or steps, key=lambda s: key(s, wanted))


def stops(s, wanted):
    return abs(math.log2(s / wanted))


def shots(gain, exposure=lambda w, steps: min(steps, key=lambda s: stops(s, w))):
    def answer(wanted, value, times, gains):
        chosen = [exposure(w, times) for w in wanted]
        return [(t, gain(value, w, t, gains)) for w, t in zip(wanted, chosen)]

    return answer


def nearest_gain(wanted, gains):
    return min(gains, key=lambda s: stops(s, wanted))


def take(previews=2, motion=True, meter=True, value=None, policy_of=lambda p: p, wrap=list, enter=True):
    def answer(camera, policy):
        def shoot():
            shot = auto_exposure(camera) if meter else Shot(1 / 120, 4.0)
            seen = [camera.preview(shot) for _ in range(previews)]
            blind = [
                torch.full((1, 4, 8, 8), 0.1),
                torch.tensor([seen[-1].achieved.value * 120]),
                torch.zeros(1),
            ]
            inputs = list(seen_by_policy(seen[0], seen[-1])) if previews > 1 else blind
            if not motion:
                inputs[2] = torch.zeros(1)
            times = policy(*inputs)[0].tolist()
            return wrap(
                camera.burst(
                    to_shots(
                        policy_of(times),
                        value or seen[-1].achieved.value,
                        camera.capabilities,
                        tolerance=None,
                    )
                )
            )

        if not enter:
            return shoot()
        with camera:
            return shoot()

    return answer


def turned(change=lambda pan, nod: (-pan, nod), roll=1.0, scale=1.0):
    "A lamp's way, to first order, with a mistake."

    def answer(rate, exposure, focal, point):
        nod, pan, turn = rate * exposure
        far = focal * torch.stack(change(pan, nod))
        return scale * (far + roll * turn * torch.stack([point[1], -point[0]]))

    return answer


def exactly_carried(rate, exposure, focal, point):
    "A lamp's way by a rotation and a projection."
    there = Rotation.from_rotvec(-(rate * exposure).numpy()).apply([*point.tolist(), focal])
    return focal * torch.tensor(there[:2] / there[2]) - point


def along(way_of=lambda way: way, total=torch.mean):
    "A picture blurred along a way, with a mistake."
    return lambda sharp, way: total(
        torch.stack([sharp.roll((int(y), int(x)), (0, 1)) for x, y in way_of(way)]), 0
    )


def by_blur(change=lambda way: way):
    "The way whose blur fits best, with a mistake."
    return lambda short, long, ways: change(
        min(ways, key=lambda way: (course.straight_blur(short, way) - long).square().sum())
    )


def by_shift(short, long, ways):
    "Where the long frame lies best, as if it were sharp."
    fits = lambda way: (short.roll((int(way[1]), int(way[0])), (0, 1)) - long).square().sum()
    return min(ways, key=fits)


WRONG = [
    ("photon_transfer", ptc(lambda s: s[:, 0].flatten(1).var(1)), "the wall's own unevenness"),
    ("photon_transfer", ptc(lambda s: s.flatten(1).var(1)), "over the picture's pixels"),
    ("photon_transfer", ptc(lambda s: s.std(1).mean((1, 2))), "straight line is that of the variance"),
    ("photon_transfer", lambda s: ptc(over_time)(s)[::-1], "wrong order"),
    ("photon_transfer", lambda s: (1 / ptc(over_time)(s)[0], ptc(over_time)(s)[1]), "1/slope counts"),
    ("photon_transfer", lambda s: (ptc(over_time)(s)[0], 0.0), "through the origin"),
    ("photon_transfer", lambda s: (ptc(over_time)(s)[0], 1.0), "intercept is 1 instead"),
    ("photon_transfer", lambda s: s.mean(), "shape"),
    ("noise_std", lambda t, x, s, r: s * 16 / t * x + r * (16 / t) ** 2, "that is the variance"),
    ("noise_std", lambda t, x, s, r: (s * 16 / t * x + r * 16 / t) ** 0.5, "gain squared"),
    ("noise_std", lambda t, x, s, r: (s * 16 / t * x + r) ** 0.5, "as it is at 16 ticks"),
    ("noise_std", lambda t, x, s, r: (s * x + r) ** 0.5 * 16 / t, "twice"),
    ("noise_std", lambda t, x, s, r: (s * t / 16 * x + r * (t / 16) ** 2) ** 0.5, "grows with the exposure"),
    ("noise_std", lambda t, x, s, r: (s * x + r) ** 0.5, "does not depend on the exposure"),
    ("noise_std", lambda t, x, s, r: 0.1, "counted pixels have a spread"),
    ("best_exposure", lambda a, b, c: (a / 2 / c) ** (1 / 3), "without read noise"),
    (
        "best_exposure",
        search(lambda t, a, b, c: (a / t + b / t**2 - c * t**2).abs()),
        "\\*equal\\*; the sum is least where their slopes",
    ),
    ("best_exposure", lambda a, b, c: (a / c) ** (1 / 3), "shot noise and blur are \\*equal\\*"),
    ("best_exposure", lambda a, b, c: total(search(total)(a, b, c), a, b, c), "return the least error"),
    ("best_exposure", lambda a, b, c: 5.0, "slope of"),
    ("shutter", shutter(lambda first, last, m, n: (-first / n, last / n)), "\\*divided\\* by a length"),
    ("shutter", shutter(lambda first, last, m, n: ((first - m) / n, (last - m) / n)), "wrong sign"),
    ("shutter", shutter(lambda first, last, m, n: (m / n, -m / n)), "only the division"),
    ("shutter", shutter(lambda first, last, m, n: (m - first, last - m)), "divide by the length"),
    ("shutter", shutter(lambda first, last, m, n: ((last - m) / n, (m - first) / n)), "wrong order"),
    (
        "shutter",
        lambda S, s, e: (
            (mean_of(S, s, e) - S[int(s) + 1]) / (e - s),
            (S[int(e) + 1] - mean_of(S, s, e)) / (e - s),
        ),
        "one tick too late",
    ),
    ("shutter", shutter(lambda *_: (0.0, 0.0)), "difference quotients are"),
    ("waiting", waiting(lambda o: 0 * o, lambda o: torch.eye(len(o))), "not the frames that wait"),
    ("waiting", waiting(lambda o: o.triu(1), lambda o: o.triu()), "other way round"),
    ("waiting", waiting(torch.tril, torch.tril), "own exposure, only on those before"),
    ("waiting", waiting(lambda o: o.tril(-1), lambda o: o.tril(-1)), "end depends on its own"),
    (
        "waiting",
        waiting(lambda o: o.tril(-1) - o.tril(-2), lambda o: o.tril() - o.tril(-2)),
        "only the next frame waits",
    ),
    ("waiting", waiting(torch.tril, lambda o: o.tril(-1)), "start and stop are in the wrong order"),
    ("waiting", waiting(lambda o: o, lambda o: o), "d stop/d t_1 should be 1"),
    ("noise_slope", slope(lambda t, g, s, x, r: (x + 2 * r * g) / 2 / s), "d sigma/d g"),
    ("noise_slope", slope(lambda t, g, s, x, r: -(x * g + 2 * r * g * g) / t), "slope of the \\*variance\\*"),
    ("noise_slope", slope(lambda t, g, s, x, r: (x * g + 2 * r * g * g) / 2 / s / t), "the sign is not"),
    ("noise_slope", slope(lambda t, g, s, x, r: -(x * g + 2 * r * g * g) / s / t), "factor 1/2"),
    ("noise_slope", slope(lambda t, g, s, x, r: -x * g / 2 / s / t), "shot noise is there"),
    ("noise_slope", slope(lambda t, g, s, x, r: -2 * r * g * g / 2 / s / t), "read noise is there"),
    ("noise_slope", slope(lambda t, g, s, x, r: -(x * g + r * g * g) / 2 / s / t), "derivative is 2 g"),
    ("noise_slope", slope(lambda t, g, s, x, r: -1.0), "difference quotients are"),
    ("head", head(lambda x, low, t_u: t_u * shares(x)[:, :2]), "give every share a floor"),
    ("head", head(lambda x, low, t_u: good_head(x, low, t_u) / FRAME_TIME), "are these ticks"),
    ("head", head(lambda x, low, t_u: low + (t_u - 2 * low) * shares(x)), "one exposure too many"),
    ("head", head(lambda x, low, t_u: low + (t_u - 2 * low) * shares(x[:, :2])), "whole budget"),
    ("head", head(lambda x, low, t_u: low + t_u * x.sigmoid()[:, :2]), "the budget of two frames"),
    ("head", head(lambda x, low, t_u: good_head(x, low, t_u).detach()), "no gradient comes back"),
    (
        "head",
        head(lambda x, low, t_u: (t_u * shares(x)[:, :2]).clamp(low, t_u / 2)),
        "clamp lets nothing pass",
    ),
    ("head", head(lambda x, low, t_u: good_head(-x, low, t_u)), "raising the i-th logit"),
    (
        "head",
        head(lambda x, low, t_u: low + 0.5 * (t_u - 2 * low) * shares(x)[:, :2]),
        "the longest first frame",
    ),
    ("head", lambda x: [1.0, 2.0], "a tensor is wanted"),
    ("loss", loss(lambda x, y, f: (x - f[:, 0]).abs().mean()), "first \\*noisy\\* frame"),
    ("loss", loss(lambda x, y, f: (f[:, 0] - y).abs().mean()), "compare the first frame itself"),
    ("loss", loss(lambda x, y, f: (x - y).square().mean()), "squared error"),
    ("loss", loss(lambda x, y, f: (x - y).abs().sum()), "you sum"),
    ("loss", loss(lambda x, y, f: (x - y).mean()), "signed"),
    ("loss", loss(lambda x, y, f: (x - y).abs().mean((1, 2, 3))), "one number is wanted"),
    ("loss", loss(lambda x, y, f: 2 * (x - y).abs().mean()), "expected 0"),
    ("loss", loss(right_loss, detach=True), "no gradient comes back"),
    ("loss", loss(lambda x, y, f: (x - y).abs().mean().detach()), "something cuts it"),
    ("loss", loss(right_loss, swap=True), "swapped"),
    ("loss", lambda *_: torch.tensor(1.0), "never asked"),
    ("interval", lambda a, b: interval(a, b, spread(a, b) / 80**0.5, sign=-1), "theirs - ours"),
    ("interval", lambda a, b: interval(a, b, ((a.var() + b.var()) / 80) ** 0.5), "different scenes"),
    ("interval", lambda a, b: interval(a, b, spread(a, b)), "spread of single scenes"),
    ("interval", lambda a, b: interval(a, b, spread(a, b) / 80**0.5, 1), "68 %"),
    ("interval", lambda a, b: (0.0, 0.0, 0.0), "mean difference is"),
    ("draws", drawn(lambda u: 8 + 56 * u), "over the budget"),
    ("draws", drawn(lambda u: 32 * u), "the camera's is 8"),
    ("draws", lambda batch, draws: torch.full((batch, 2), 20.0) * FRAME_TIME, "every burst is the same"),
    ("draws", drawn(lambda u: torch.stack([8 + 48 * u[:, 0], 56 - 48 * u[:, 0]], 1)), "same total"),
    ("draws", drawn(lambda u: 8 + 24 * u.sort(1).values), "same order"),
    ("draws", drawn(lambda u: 8 + 24 * u[:, :1].expand(-1, 2)), "same exposure"),
    ("draws", drawn(lambda u: 8 + 24 * u), "span 8 to 32"),
    ("draws", lambda batch, draws: all_bursts(torch.rand(batch, 2)) * FRAME_TIME, "two calls"),
    ("draws", lambda batch, draws: all_bursts(torch.rand(batch, 2, generator=draws)), "are these ticks"),
    ("labels", lambda e, c: e.argmin(1), "\\*numbers\\*"),
    ("labels", lambda e, c: c[e.argmax(1)], "\\*largest\\*"),
    ("labels", lambda e, c: c[e.mean(0).argmin()].expand(len(e), -1), "same label"),
    ("labels", lambda e, c: e.softmax(1) @ c, "least for its scene"),
    ("step", step(lambda g: -g, joint=True), "restorer has moved"),
    ("step", step(lambda g: 0 * g), "has not moved"),
    ("step", step(lambda g: g), "you climb"),
    ("step", step(lambda g: -2 * g), "not by -lr"),
    ("step", piled_up, "piled up"),
    ("step", lambda *_: 1 / 0, "ZeroDivisionError"),
    ("nearest", dial(lambda s, w: abs(s - w)), "nearest in \\*seconds\\*"),
    ("nearest", dial(lambda s, w: abs(1 / s - 1 / w)), "nearest in 1/seconds"),
    ("nearest", dial(stops, lambda steps, w: [s for s in steps if s <= w]), "next shorter"),
    ("nearest", dial(stops, lambda steps, w: [s for s in steps if s >= w]), "next longer"),
    ("nearest", lambda w, steps: w, "not on the dial"),
    ("nearest", lambda w, steps: steps[0], "you chose"),
    ("shots", shots(lambda value, w, t, gains: nearest_gain(value / w, gains)), "were \\*wanted\\*"),
    ("shots", shots(lambda value, w, t, gains: gains[9]), "same gain"),
    ("shots", shots(lambda value, w, t, gains: value / t), "a gain is not on"),
    (
        "shots",
        shots(lambda value, w, t, gains: nearest_gain(value / t, gains), lambda w, steps: w),
        "an exposure is not on",
    ),
    (
        "shots",
        shots(lambda value, w, t, gains: nearest_gain(value / t, gains), lambda w, steps: steps[0]),
        "not the nearest step",
    ),
    ("shots", shots(lambda value, w, t, gains: nearest_gain(value * t * 10, gains)), "off in brightness"),
    ("shots", lambda *_: [1.0, 2.0], "list of pairs"),
    ("take", take(enter=False), "refused"),
    ("take", take(wrap=lambda frames: frames), "one by one"),
    ("take", take(previews=1, meter=False), "the policy needs two previews"),
    ("take", take(previews=1), "nothing moves"),
    ("take", take(motion=False), "nothing moves"),
    ("take", take(meter=False), "auto_exposure"),
    ("take", take(value=30.0), "preview's brightness"),
    ("take", take(policy_of=lambda times: times[::-1]), "not the policy's"),
    ("take", lambda camera, policy: [], "needs two previews"),
    ("carried", turned(lambda pan, nod: (pan, -nod), -1.0), "goes the other way"),
    ("carried", turned(lambda pan, nod: (-nod, pan)), "is a nod"),
    ("carried", turned(roll=0.0), "forward axis is missing"),
    ("carried", turned(roll=-1.0), "wrong way round"),
    ("carried", turned(scale=50.0), "that is a speed"),
    ("carried", turned(scale=57.29578), "degrees"),
    ("carried", turned(lambda pan, nod: (-pan / 900, nod / 900)), "focal length makes pixels"),
    ("carried", turned(lambda pan, nod: (pan, nod)), "carries the lamp by"),
    ("carried", lambda rate, exposure, focal, point: rate, "shape"),
    ("blur", along(lambda way: -way), "runs backwards"),
    ("blur", along(lambda way: way.flip(1)), "swapped"),
    ("blur", along(lambda way: way - way.double().mean(0).round().long()), "both sides"),
    ("blur", along(total=torch.sum), "sum over the way"),
    ("blur", along(lambda way: way[-1:]), "at the way's end"),
    ("blur", lambda sharp, way: sharp, "moved along the way"),
    ("way", by_blur(lambda way: -way), "mirrored"),
    ("way", by_shift, "half of the way"),
    ("way", by_blur(lambda way: way.flip(0)), "swapped"),
    ("way", lambda short, long, ways: torch.tensor(3), "number"),
    ("way", lambda short, long, ways: ways[0], "noise apart"),
]


@pytest.mark.parametrize("name, answer, told", WRONG, ids=[f"{name}-{told[:24]}" for name, _, told in WRONG])
def test_a_wrong_answer_is_told_why(name, answer, told):
    verdict = getattr(course, f"check_{name}")(answer)
    assert not verdict and re.search(told, verdict.message), verdict


RIGHT = {
    "photon_transfer": ptc(over_time),
    "noise_std": lambda t, x, s, r: math.sqrt(s * 16 / t * x + r * (16 / t) ** 2),
    "best_exposure": search(total),  # other ways than those of the solutions
    "shutter": shutter(lambda first, last, m, n: ((m - first) / n, (last - m) / n)),
    "waiting": (
        lambda n: torch.autograd.functional.jacobian(
            lambda t: torch.stack(timeline(t[None]))[:, 0], torch.full((n,), 0.01)
        ).unbind()
    ),
    "head": head(good_head),
    "loss": loss(right_loss),
    "interval": lambda a, b: interval(a, b, spread(a, b) / 80**0.5, 1.99),  # Student's t
    "draws": drawn(all_bursts),
    "labels": lambda e, c: torch.stack([c[row.argmin()] for row in e]),
    "step": step(lambda g: -g),
    "nearest": dial(stops),
    "shots": shots(lambda value, w, t, gains: nearest_gain(value / t, gains)),
    "take": take(),
    "noise_slope": slope(lambda t, g, s, x, r: -(x * g + 2 * r * g * g) / 2 / s / t),
    "carried": exactly_carried,  # by projection, not to first order
    "blur": along(lambda way: way.flip(0)),  # the order of the positions does not count
    "way": by_blur(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_another_right_answer_passes(name):
    assert getattr(course, f"check_{name}")(RIGHT[name])


def test_every_check_has_right_and_wrong_answers():
    checks = {name.removeprefix("check_") for name in course.__all__ if name.startswith("check_")}
    assert checks == RIGHT.keys() == {name for name, *_ in WRONG} and len(checks) == 18
