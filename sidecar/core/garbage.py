"""The garbage collector, and what stays for ever: the modules of a process, once they are imported."""

from __future__ import annotations

import gc

_YOUNG, _MIDDLE = gc.get_threshold()[:2]


def spare(young: int = _YOUNG, middle: int = _MIDDLE, full: int = 2) -> None:
    """Have no collection go through what is there now: a full one takes milliseconds, in which a probe waits.

    What comes from now on is collected sooner, for that costs little: connections that were cut, and lie in cycles. So
    `full`, the collections of the middle generation before a full one, is not Python's own 10, which are for full ones
    that are dear. `young` objects more, and the youngest are collected; after `middle` of these, the middle generation.
    """
    gc.freeze()
    gc.collect()  # of nothing: from then on Python weighs what a full one is worth without what is spared
    gc.set_threshold(young, middle, full)
