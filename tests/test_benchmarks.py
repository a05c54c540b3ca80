"""What the benchmarks stand on: counted operations, time by part, and a table whose targets all have a verdict."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from test_house import cells

ROOT = Path(__file__).resolve().parents[1]
FOUND = ROOT / "results" / "benchmarks.json"
PAGE = ROOT / "nbs" / "explore/70_benchmarks.ipynb"


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    import measure

    return measure


@pytest.mark.parametrize("groups", [1, 2, 16])
def test_operations_of_a_grouped_convolution(measure, groups):
    "Every output value is a sum over the channels of its group and the taps: a product and an addition each."
    conv, x = torch.nn.Conv2d(16, 32, 3, padding=1, groups=groups, bias=False), torch.rand(2, 16, 8, 10)
    assert measure.flops(lambda: conv(x)) == 2 * (2 * 32 * 8 * 10) * (16 // groups * 9)


def test_time_goes_to_the_innermost_part_and_none_is_lost(measure):
    class Work:
        def inner(self):
            time.sleep(0.05)

        def outer(self):
            time.sleep(0.02)
            self.inner()

    watch = measure.Stopwatch()
    watch.watch("inner", Work, "inner")
    watch.watch("outer", Work, "outer")
    began = time.perf_counter()
    watch.restart()
    Work().outer()
    watch.turn()
    whole = time.perf_counter() - began
    assert (
        watch.spent["inner"] >= 0.05
        and watch.spent["outer"] >= 0.02
        and sum(watch.spent.values()) == pytest.approx(whole, abs=0.01)
    )


def test_threads_of_a_part_are_its_own(measure):
    watch = measure.Stopwatch()
    inner = watch.within("inner", lambda _: time.sleep(0.05))

    def outer():
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(inner, range(2)))

    watch.restart()
    watch.within("outer", outer)()
    watch.turn()
    assert watch.spent["outer"] >= 0.05 and "inner" not in watch.spent and watch.running == ["other"]


def test_an_error_within_a_part_leaves_it(measure):
    def fail():
        raise KeyError

    watch = measure.Stopwatch()
    with pytest.raises(KeyError):
        watch.within("part", fail)()
    assert watch.running == ["other"]


def test_the_page_gives_a_verdict_on_every_target_of_the_table():
    "Computed again here, and compared with what the committed page says."
    rows = json.loads(FOUND.read_text())["rows"]
    targets = [
        (row[name], sign, limit) for row in rows for name, (sign, limit) in row.get("targets", {}).items()
    ]
    reached = sum(value >= limit if sign == ">=" else value <= limit for value, sign, limit in targets)
    printed = "".join(
        "".join(output.get("text", ""))
        for cell in cells(PAGE)
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    )
    assert f"{reached} of {len(targets)} targets are reached" in printed and len(targets) >= 5


def test_the_page_is_of_the_committed_table():
    machine, text = json.loads(FOUND.read_text())["machine"], PAGE.read_text()
    said = re.search(r"one of (\d+) cores: (\d+) GFLOP/s, ([\d.]+) GB/s", text)
    assert said and said.groups() == (
        str(machine["cores"]),
        f"{machine['sgemm_gflops']:.0f}",
        f"{machine['memcpy_gb_s']:.1f}",
    )


def test_the_parts_of_a_stage_are_all_of_its_time():
    for row in json.loads(FOUND.read_text())["rows"]:
        if "parts" in row:
            assert (
                sum(row["parts"].values()) == pytest.approx(1)
                and min(row["parts"].values()) >= 0
                and row["loading"] == row["parts"]["data"]
            )
