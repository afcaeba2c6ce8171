"""Converts a document to a list: `python -m sidecar.worker.project_list TARGET json|html identity|gzip BYTES`.

Standard input has a line of JSON (`url`, `etag`, `fetched_at`; `delimited`: the protocol shows where the document
ends), then the document, of at most BYTES decompressed.
TARGET must not exist. Prints one line of JSON: `names` and `invalid` (their numbers, code 0), or `kind` and `reason`
(code 1; TARGET may then be left).

It is the first process to be stopped if memory runs out, and the last to get the processor.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator

from sidecar.worker.project_list import list_file
from sidecar.worker.project_list.body import read_line, texts
from sidecar.worker.project_list.names import NotAList
from sidecar.worker.project_list.sorting import Sorter

MEMORY = 400 * 2**20
CPU_SECONDS = 300
_ABOUT = 2**14
_RESTS_AFTER = 2**12
"""Names that are written without a rest."""


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    target, form, encoding, size = arguments
    try:
        _step_back(int(size))
        answer = convert(0, target, form, compressed=encoding == "gzip", max_bytes=int(size))
    except NotAList as error:
        answer = {"kind": error.kind, "reason": str(error)}
    except MemoryError:
        answer = {"kind": "too-large", "reason": "reading it takes too much memory"}
    except OSError as error:
        answer = {"kind": "unreadable", "reason": f"it can't be stored: {error.strerror or 'unknown error'}"}
    os.write(1, json.dumps(answer).encode() + b"\n")
    return 0 if "names" in answer else 1


def convert(source: int, target: str, form: str, *, compressed: bool, max_bytes: int) -> dict[str, object]:
    """Write the list to `target`; return the line to print. Raises NotAList, OSError, MemoryError."""
    about = json.loads(read_line(source, _ABOUT))
    fetched_at = float(about.pop("fetched_at"))
    delimited = bool(about.pop("delimited"))
    scratch_name = f"{target}-runs"
    with contextlib.ExitStack() as open_files:
        scratch = os.open(scratch_name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        open_files.callback(os.close, scratch)
        os.unlink(scratch_name)  # noqa: PTH108 - pathlib takes as long to import as the rest
        sorter = Sorter(scratch)
        if form == "json":
            from sidecar.worker.project_list import json_document

            batches = json_document.names(
                texts(source, compressed=compressed, max_bytes=max_bytes, encoding="utf-8"),
            )
        else:
            from sidecar.worker.project_list import html_document

            batches = html_document.names(
                # a name is ASCII in every encoding that occurs
                texts(source, compressed=compressed, max_bytes=max_bytes, encoding="latin-1"),
                about["url"],
                delimited=delimited,
            )
        pace = Pace()
        for batch in batches:
            sorter.add(batch)
            pace.rest()
        if not sorter.valid or sorter.invalid > sorter.valid:
            raise NotAList(f"it is not a list of projects: valid names: {sorter.valid}, others: {sorter.invalid}")
        file = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        open_files.callback(os.close, file)
        names = list_file.write(file, about, fetched_at, pace.over(sorter.sorted()))
    return {"names": names, "invalid": sorter.invalid}


class Pace:
    """Sleeps for as long as the work took.

    A low priority does not help requests once a container's CPU quota is used up; this leaves them most of it.
    """

    def __init__(self) -> None:
        self._since = time.monotonic()

    def rest(self) -> None:
        """Sleep for as long as it was since the last sleep."""
        time.sleep(time.monotonic() - self._since)
        self._since = time.monotonic()

    def over(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the names, and rest now and then."""
        for number, name in enumerate(names, 1):
            yield name
            if number % _RESTS_AFTER == 0:
                self.rest()


def _step_back(max_bytes: int) -> None:
    os.nice(19)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - as above
        file.write("1000")
    for what, limit in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 2 * max_bytes + 2**20),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
