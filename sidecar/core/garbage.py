"""Tuning of the garbage collector for a process whose imported modules stay forever."""

from __future__ import annotations

import gc

_YOUNG, _MIDDLE = gc.get_threshold()[:2]


def spare(young: int = _YOUNG, middle: int = _MIDDLE, full: int = 2) -> None:
    """Exclude all present objects from collections: a full one takes milliseconds, during which a probe waits.

    Newer objects, such as closed connections in cycles, are cheap to collect and so are collected sooner: the default
    of `full` is 2 instead of Python's 10. The parameters are the thresholds of `gc.set_threshold`.
    """
    gc.freeze()
    gc.collect()  # of nothing: Python then decides about full collections without counting the frozen objects
    gc.set_threshold(young, middle, full)
