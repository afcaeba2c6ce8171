"""The garbage collector, and what stays for ever: the modules of a process, once they are imported."""

from __future__ import annotations

import gc

_ROUNDS = 2
"""Collections of the middle generation before a full one; Python's own 10 are for full ones that are dear."""


def spare() -> None:
    """Have no collection go through what is there now: a full one takes milliseconds, in which a probe waits.

    What comes from now on is collected sooner, for that costs little: connections that were cut, and lie in cycles.
    """
    gc.freeze()
    gc.collect()  # of nothing: from then on Python weighs what a full one is worth without what is spared
    gc.set_threshold(*gc.get_threshold()[:2], _ROUNDS)
