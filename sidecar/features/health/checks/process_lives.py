"""`process`: devpi-server was started, and serves."""

from __future__ import annotations

from sidecar.core.check import FAIL, PASS, PENDING, Verdict
from sidecar.core.lifecycle import Phase, Snapshot


def judge_process(snapshot: Snapshot, *, started: bool, ended: Verdict | None, draining: bool = False) -> Verdict:
    """`process`: devpi-server was started, has not exited, and the phase serves. Before that it is pending."""
    phase = snapshot.phase
    if phase is Phase.FAILED:
        if snapshot.failure is None:
            return Verdict(FAIL, "failed")
        return Verdict(FAIL, f"failed: {snapshot.failure.reason}", hint=snapshot.failure.hint)
    if phase is Phase.IMPORTING:
        return Verdict(PENDING, f"importing: {snapshot.progress or 'none'}")
    if phase is Phase.STOPPING:
        return Verdict(FAIL, phase.value)
    if phase in {Phase.STARTING, Phase.INITIALISING}:
        return Verdict(PENDING, phase.value)
    if ended is not None:
        return ended
    if draining or not started:
        what = "is being restarted" if draining else "has not started yet"
        return Verdict(PENDING, f"{phase}: devpi-server {what}")
    return Verdict(PASS)
