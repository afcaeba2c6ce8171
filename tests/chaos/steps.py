"""The steps that a container takes on disk: each write, fsync and rename of its processes, seen by a preloaded library.

`steps.c` is compiled once and preloaded into the sidecar, devpi-server and the preparation, without any change to them.
It sees calls of libc's functions, so SQLite's too; what it can't see (a write through a memory map) is found by
`disk.Disk`: all steps replayed must give the real directory.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from tests.support import needs
from tests.support.container import Container

SOURCE = Path(__file__).with_name("steps.c")
_RECORD = struct.Struct("<IIIIIIQ16s")


class Op(IntEnum):
    """What a step does; in the order of `enum op`."""

    CREATE = 0
    TRUNCATE = 1
    WRITE = 2
    FSYNC = 3
    SYNCFS = 4
    RENAME = 5
    LINK = 6
    UNLINK = 7
    MKDIR = 8
    RMDIR = 9
    CHMOD = 10
    SYMLINK = 11
    UNKNOWN = 12


@dataclass(frozen=True)
class Step:
    """One recorded step."""

    op: Op
    process: str
    """`sidecar`, `child` (devpi-server), or `preparation`, the child's fork that makes a first state."""
    pid: int
    name: str
    """The operation and the kind of file: `write serverdir/.sidecar/.tmp-marker.json-*`."""
    path: Path
    other: Path
    """For a rename or a link: the new path."""
    offset: int
    """For a write, its bytes; for a truncation, the new length; for `chmod` and `mkdir`, the mode."""
    data: bytes


@dataclass(frozen=True)
class Kill:
    """SIGKILL instead of the step `name` of `process`, the `number`-th time (from 1)."""

    process: str
    name: str
    """`*`: any."""
    number: int
    victim: str
    """`self`, the process that takes the step; `sidecar`, `child`, or `both`."""
    how: str = "whole"
    """`torn`: after half of the bytes, if it is a write."""

    def __str__(self) -> str:
        return "|".join((self.process, self.name, str(self.number), self.victim, self.how))

    @classmethod
    def parse(cls, text: str) -> Kill:
        """Parse its text form."""
        process, name, number, victim, how = text.split("|")
        return cls(process, name, int(number), victim, how)


@dataclass(frozen=True)
class Failure:
    """The step `name` of `process` fails, the `number`-th time (from 1)."""

    process: str
    name: str
    number: int
    error: str
    """`ENOSPC` or `EIO`."""
    how: str
    """`once`; or `full`: from then on all steps of all processes that need space fail, until `make_room`."""

    def __str__(self) -> str:
        return "|".join((self.process, self.name, str(self.number), self.error, self.how))

    @classmethod
    def parse(cls, text: str) -> Failure:
        """Parse its text form."""
        process, name, number, error, how = text.split("|")
        return cls(process, name, int(number), error, how)


def build(into: Path) -> Path:
    """Return the compiled library. Skips the test if there is no C compiler."""
    compiler = needs.compiler()
    library = into / "steps.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
    return library


def watch(
    container: Container,
    library: Path,
    *,
    trace: Path | None = None,
    kill: Kill | None = None,
    failure: Failure | None = None,
) -> None:
    """Preload the library into all that the container starts from now on: to record steps, kill at one, or fail it."""
    died_at(container).unlink(missing_ok=True)
    container.env |= {
        "LD_PRELOAD": str(library),
        "CHAOS_WATCH": f"serverdir={container.serverdir}:runtime={container.runtime}",
        "CHAOS_DIED": str(died_at(container)),
        "CHAOS_TRACE": "-" if trace is None else str(trace),
        "CHAOS_KILL": "-" if kill is None else str(kill),
        "CHAOS_FAIL": "-" if failure is None else str(failure),
    }


def let_alone(container: Container) -> None:
    """Start the container without the library from now on."""
    for name in ("LD_PRELOAD", "CHAOS_WATCH", "CHAOS_DIED", "CHAOS_TRACE", "CHAOS_KILL", "CHAOS_FAIL"):
        container.env.pop(name, None)


def died_at(container: Container) -> Path:
    """Return where a kill or a failure happened, as the library reports it."""
    return container.home / "died"


def make_room(container: Container) -> None:
    """Make the disk writable again."""
    died_at(container).unlink(missing_ok=True)


def read(trace: Path) -> Iterator[tuple[int, Step]]:
    """Return a trace's steps in their order, with the byte offset where each record ends."""
    content = memoryview(trace.read_bytes())
    at = 0
    while at < len(content):
        op, pid, *lengths, offset, process = _RECORD.unpack_from(content, at)
        at += _RECORD.size
        path, other, data, name = lengths
        texts = []
        for length in (path, other, name, data):
            texts.append(bytes(content[at : at + length]))
            at += length
        yield (
            at,
            Step(
                Op(op),
                process.rstrip(b"\0").decode(),
                pid,
                texts[2].decode(),
                Path(texts[0].decode()),
                Path(texts[1].decode()),
                offset,
                texts[3],
            ),
        )
