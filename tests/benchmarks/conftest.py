"""Timing and the table. Times are processor time on one thread, the least of several, what is compared taken in turns: other work on the machine lengthens little."""

import gc
import json
import operator
import os
import time
from pathlib import Path

import pytest
import torch

from debir_nb.disk import atomic

ROOT = Path(__file__).resolve().parents[2]
ROWS, MACHINE = [], {}


def fastest(*forms, rounds=5):
    """Least processor time of each form, s; they take turns of three, so that each finds its own data in the
    caches once.
    """
    took = [[] for _ in forms]
    for form in forms:
        form()
    for _ in range(rounds):
        for form, times in [turn for turn in zip(forms, took) for _ in range(3)]:
            began = time.process_time()
            form()
            times.append(time.process_time() - began)
    return [min(times) for times in took]


@pytest.fixture(scope="session", autouse=True)
def machine():
    "What this machine can do at best, on one thread, measured in the same run."
    torch.set_num_threads(1)
    a, b, c = torch.rand(1024, 1024), torch.rand(1024, 1024), torch.empty(1024, 1024)
    big, copy = torch.rand(2**25), torch.empty(2**25)
    sgemm, memcpy = fastest(lambda: torch.mm(a, b, out=c), lambda: copy.copy_(big), rounds=9)
    MACHINE.update(
        sgemm_gflops=2 * 1024**3 / sgemm / 1e9,
        memcpy_gb_s=2 * 4 * 2**25 / memcpy / 1e9,
        torch=torch.__version__,
        cores=os.cpu_count(),
    )
    return MACHINE


@pytest.fixture(autouse=True)
def repeatable():
    torch.manual_seed(0)
    yield
    gc.collect()


@pytest.fixture
def row(request, benchmark, machine):
    """Put a line into the table: `form` timed by pytest-benchmark as well, against `reference` where there is
    one.
    Bytes are those that must move at least; FLOPs those of convolutions and products. All are divided by
    `share`, the bursts that `form` makes at once.
    """

    def write(what, form, reference=None, against="", flop=0, moved=0, rounds=5, share=1):
        times = fastest(form, *([reference] if reference else []), rounds=rounds)
        benchmark.pedantic(form, rounds=1)
        return note(
            {
                "what": what,
                "ms": 1e3 * times[0] / share,
                "against": against,
                "ratio": times[1] / times[0] if reference else None,
                "gflop": flop / share / 1e9,
                "of_sgemm": flop / times[0] / 1e9 / machine["sgemm_gflops"] if flop else None,
                "mb": moved / share / 1e6,
                "of_memcpy": moved / times[0] / 1e9 / machine["memcpy_gb_s"] if moved else None,
            },
            request,
        )

    return write


def note(line, request):
    "Keep a line for the table, with the load of the machine and the command that measures it again."
    ROWS.append(line)
    line["load"] = os.getloadavg()[0]
    line["command"] = (
        f'make bench BENCH="{"-m long " if request.node.get_closest_marker("long") else ""}-k'
        f' {request.node.originalname}"'
    )
    return line


def judge(line, **targets):
    "Write the targets into a line, each as (sign, limit), and fail where one is not reached."
    line["targets"] = targets
    missed = [
        f"{name} is {line[name]:.3g}, the target {sign} {limit}"
        for name, (sign, limit) in targets.items()
        if not {">=": operator.ge, "<=": operator.le}[sign](line[name], limit)
    ]
    print(
        "\n" + line["what"],
        {name: round(value, 4) for name, value in line.items() if isinstance(value, float)},
    )
    assert not missed, missed


def pytest_sessionfinish(session, exitstatus):
    """What was measured replaces its own lines of the table, those that missed a target included; the other
    lines stay as an earlier run left them.
    """
    path = ROOT / "results" / "benchmarks.json"
    old = json.loads(path.read_text()) if path.exists() else {"machine": MACHINE, "rows": []}
    rows = {row["what"]: row for row in old["rows"] + ROWS}
    machine = (
        MACHINE if any(row.get("of_sgemm") or row.get("of_memcpy") for row in ROWS) else old["machine"]
    )  # the ceilings of the lines that are compared with them
    if ROWS:
        with atomic(path) as tmp:
            tmp.write_text(json.dumps({"machine": machine, "rows": list(rows.values())}, indent=1))
