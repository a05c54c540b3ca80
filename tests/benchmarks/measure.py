"""What is measured besides time as a whole: operations, and time by part."""

import re
import threading
import time
from collections import Counter
from functools import wraps
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode


def flops(form):
    """Floating-point operations of convolutions and matrix products; a grouped convolution counts its groups
    alone.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        form()
    return counter.get_total_flops()


def peak_memory():
    """Most memory that this process has held, bytes. `getrusage` would count what its parent held when it
    started it, too.
    """
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


class Stopwatch:
    """Wall-clock time by part, s; a part that begins within another one pauses it. Threads that a part starts
    are that part's.
    """

    def __init__(self):
        self.spent, self.running, self.since, self.thread = (
            Counter(),
            ["other"],
            time.perf_counter(),
            threading.get_ident(),
        )

    def turn(self):
        now = time.perf_counter()
        self.spent[self.running[-1]] += now - self.since
        self.since = now

    def restart(self):
        self.turn()
        self.spent.clear()

    def within(self, part, form):
        "`form`, whose time goes to a part."

        @wraps(form)
        def timed(*args, **kwargs):
            if threading.get_ident() != self.thread:
                return form(*args, **kwargs)
            self.turn()
            self.running.append(part)
            try:
                return form(*args, **kwargs)
            finally:
                self.turn()
                self.running.pop()

        return timed

    def watch(self, part, owner, *names):
        for name in names:
            setattr(owner, name, self.within(part, getattr(owner, name)))
