"""Bursts whose exposure times a network chooses. The names that people type; each is imported when it is first used."""

__version__ = "0.1.0"

from importlib import import_module

_PLACES = {  # name -> where it is defined
    "BAENet": "policies.baenet.BAENet",
    "Burstormer": "restorers.burstormer.Burstormer",
    "Simulator": "light.simulator.Simulator",
    "expose": "cameras.commands.expose",
    "load_pretrained": "weights.pretrained.load_pretrained",
    "restore": "cameras.files.restore_folder",
    "save_restored": "cameras.files.save_restored",
}
__all__ = list(_PLACES)


def __getattr__(name):
    "Import what is asked for: torch takes seconds, `import debir_nb` must not."
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, defined = _PLACES[name].rpartition(".")
    return getattr(import_module(f"{__name__}.{module}"), defined)


def __dir__():
    return sorted([*globals(), *_PLACES])
