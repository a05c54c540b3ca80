"""What chooses exposure times. The names that people type; each is imported when it is first used."""

from importlib import import_module

_PLACES = {"BAENet": "baenet", "Fixed": "rules", "Policy": "protocol", "bracket": "rules"}  # name -> module
__all__ = list(_PLACES)


def __getattr__(name):
    "Import what is asked for."
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
