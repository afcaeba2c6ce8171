"""`lock`: the serverdir's lock is held."""

from __future__ import annotations

from sidecar.core.check import FAIL, PASS, Verdict


def judge_lock(lost: str | None) -> Verdict:
    """`lock`: without it, a second server may write to the same serverdir. `lost`: why it is no longer held."""
    if lost is None:
        return Verdict(PASS)
    return Verdict(
        FAIL,
        f"{lost}, so a second server may start on the same data",
        hint="stop this server and start it again; don't change .sidecar in the serverdir while a server runs",
    )
