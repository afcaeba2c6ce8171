"""Judges hostile archives, each in a separate process with limited resources.

`python -m tests.support.hostile.judge` reads lines of JSON, `{"init": …, "staging": …, "limits": {…}}`, and answers
each with the result for that folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from sidecar.exports.merge import load
from sidecar.exports.sources import Budget, ImportRefused, Limits, Omissions, find
from sidecar.exports.unpack import unpack

SECONDS = 20
ADDRESSES = 2**30
FILE = 2**28


class Quiet:
    """A watcher that ignores its calls."""

    def unpacking(self, source: str, compressed_bytes: int, members: int, unpacked_bytes: int) -> None: ...


def judge(init: Path, staging: Path, limits: Limits, *, strict: bool) -> dict[str, Any]:
    """Find, unpack, check: what `sidecar.worker.load` does before devpi's importer compares the digests."""
    omissions = Omissions(strict=strict)
    try:
        budget = Budget.of(limits, staging)
        sources = find(init).sources
        trees = [unpack(each, staging / str(n), limits, budget, Quiet(), omissions) for n, each in enumerate(sources)]
        export = load(trees, limits, omissions)
    except ImportRefused as error:
        return {"outcome": "refused", "reason": error.reason, "hint": error.hint, "member": error.member,
                "archive": error.archive}  # fmt: skip
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in export.files.items()}
    left_out = [[each.member, each.reason] for each in omissions.first]
    return {"outcome": "loaded", "data": export.data, "digests": digests, "left_out": left_out}


def peak_bytes() -> int:
    """The peak memory of this process since its fork."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def in_a_fork(task: dict[str, Any]) -> dict[str, Any]:
    """The judgement, its CPU-seconds and its peak; `died` with a status if there is none."""
    read, write = os.pipe()
    if not (child := os.fork()):
        for what, most in (
            (resource.RLIMIT_CPU, SECONDS),
            (resource.RLIMIT_AS, ADDRESSES),
            (resource.RLIMIT_FSIZE, FILE),
        ):
            resource.setrlimit(what, (most, most))
        began = time.process_time()
        try:
            said = judge(Path(task["init"]), Path(task["staging"]), Limits(**task["limits"]), strict=task["strict"])
        except BaseException as error:  # an unexpected exception
            said = {"outcome": "raised", "reason": repr(error)[:1000]}
        with os.fdopen(write, "w") as file:
            json.dump(said | {"peak": peak_bytes(), "cpu_seconds": time.process_time() - began}, file)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        raw = file.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(raw) if raw else {"outcome": "died", "reason": f"status {status}", "peak": 0, "cpu_seconds": 0}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(in_a_fork(json.loads(line))), flush=True)
