"""Timing and the table. Everything is processor time on one thread, the least of several, what is compared taken in turns: other work on the machine lengthens nothing."""
import gc
import json
import time
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from debir_nb.core import atomic

ROOT = Path(__file__).resolve().parents[2]
ROWS, MACHINE = [], {}


def fastest(*forms, rounds=5):
    "Least processor time of each form, s; they take turns of three, so that each finds its own data in the caches once."
    took = [[] for _ in forms]
    for form in forms: form()
    for _ in range(rounds):
        for form, times in [turn for turn in zip(forms, took) for _ in range(3)]:
            began = time.process_time()
            form()
            times.append(time.process_time() - began)
    return [min(times) for times in took]


def flops(form):
    "Floating-point operations of convolutions and matrix products; a grouped convolution counts its groups alone."
    with FlopCounterMode(display=False) as counter, torch.no_grad(): form()
    return counter.get_total_flops()


@pytest.fixture(scope="session", autouse=True)
def machine():
    "What this machine can do at best, on one thread, measured in the same run."
    torch.set_num_threads(1)
    a, b, c = torch.rand(1024, 1024), torch.rand(1024, 1024), torch.empty(1024, 1024)
    big, copy = torch.rand(2**25), torch.empty(2**25)
    sgemm, memcpy = fastest(lambda: torch.mm(a, b, out=c), lambda: copy.copy_(big), rounds=9)
    MACHINE.update(sgemm_gflops=2*1024**3/sgemm/1e9, memcpy_gb_s=2*4*2**25/memcpy/1e9, torch=torch.__version__, threads=1)
    return MACHINE


@pytest.fixture(autouse=True)
def repeatable():
    torch.manual_seed(0)
    yield
    gc.collect()


@pytest.fixture
def row(request, benchmark, machine):
    """Put a line into the table: `form` timed by pytest-benchmark as well, against `reference` where there is one.
    Bytes are those that must move at least; FLOPs those of convolutions and products."""
    def write(what, form, reference=None, against="", flop=0, moved=0, rounds=5):
        times = fastest(form, *([reference] if reference else []), rounds=rounds)
        benchmark.pedantic(form, rounds=1)
        line = {"what": what, "ms": 1e3*times[0], "against": against, "ratio": times[1]/times[0] if reference else None,
                "gflop": flop/1e9, "of_sgemm": flop/times[0]/1e9/machine["sgemm_gflops"] if flop else None,
                "mb": moved/1e6, "of_memcpy": moved/times[0]/1e9/machine["memcpy_gb_s"] if moved else None,
                "command": f"make bench BENCH=\"-k {request.node.originalname}\""}
        note(line)
        return line
    return write


def note(line):
    "Keep a line for the table."
    ROWS.append(line)
    print({k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()})


def pytest_sessionfinish(session, exitstatus):
    "The table is replaced by a run of all benchmarks, failed ones included, and left alone by a run of some."
    if ROWS and not session.config.getoption("keyword"):
        with atomic(ROOT/"results"/"benchmarks.json") as tmp: tmp.write_text(json.dumps({"machine": MACHINE, "rows": ROWS}, indent=1))
