"""The subprocess that converts an upstream's list (`__main__`), and what it is given."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Literal, NamedTuple, Protocol, cast

_ROOT = Path(__file__).resolve().parents[3]
_ANSWER_BYTES = 4096
HINT = "check mirror_url: it is the base of a simple index (PEP 503, PEP 691)"


class Cause(Protocol):
    """As `upstream.causes.Cause`."""

    @property
    def kind(self) -> str:
        """As in `UpstreamsSeen`."""

    @property
    def reason(self) -> str:
        """What failed, without secrets."""

    @property
    def hint(self) -> str:
        """What the operator can do."""


class Failure(Exception):
    """Why there is no new list: `kind` as in `UpstreamsSeen`, `reason` and `hint` as in messages."""

    def __init__(self, kind: str, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.hint = hint


class Form(NamedTuple):
    """How the document is written."""

    text: Literal["json", "html"]
    encoding: Literal["identity", "gzip"]


class Conversion:
    """One subprocess. `kill` can be called by any thread at any time."""

    def __init__(self, target: Path, form: Form, max_bytes: int, about: dict[str, object]) -> None:
        """Start it; `about` is its first line. Raises OSError."""
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-P", "-m", "sidecar.worker.project_list", target, *form, str(max_bytes)],
            env={"PYTHONPATH": str(_ROOT)},  # nothing of this process's own, which may have secrets
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self._stdout = cast("IO[bytes]", self._process.stdout)
        self._first = json.dumps(about).encode() + b"\n"

    def __enter__(self) -> Conversion:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill and reap the subprocess, if it has not ended."""
        self.kill()
        self._stdin.close()
        self._stdout.close()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Of the subprocess."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once: reads and writes of other threads then fail or end."""
        self._process.kill()

    def write(self, piece: bytes) -> bool:
        """Write a piece of the document; return whether the subprocess still reads."""
        rest = memoryview(self._first + piece)
        self._first = b""
        try:
            while rest:
                rest = rest[self._stdin.write(rest) or 0 :]
        except BrokenPipeError:
            return False
        return True

    def finish(self) -> int:
        """End the document; return the number of names, once the target is complete. Raises Failure."""
        self.write(b"")
        self._stdin.close()
        printed = self._stdout.read(_ANSWER_BYTES)
        code = self._process.wait()
        try:
            answer = json.loads(printed)
        except ValueError:
            answer = {}
        if code == 0 and isinstance(answer.get("names"), int):
            return int(answer["names"])
        raise self._failure(code, answer)

    def _failure(self, code: int, answer: dict[str, object]) -> Failure:
        kind = str(answer.get("kind", "unreadable"))
        if "reason" in answer:
            hints = {
                "too-large": "raise DEVPI_MIRROR_MAX_LIST_SIZE if the upstream is trusted",
                "cut": "none needed: it is retried",
            }
            hint = hints.get(kind, HINT)
            return Failure(kind, f"the list of projects: {answer['reason']}", hint)
        ended = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        return Failure("unreadable", f"the process that reads the list of projects {ended}", "raise the memory limit")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
