"""The body of a response goes to the subprocess that converts it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from sidecar.worker.project_list import response as of_response
from sidecar.worker.project_list.conversion import Conversion, Failure
from sidecar.worker.project_list.response import Response

PIECE = 2**16
"""Bytes that are read of the response at once."""


def transfer(
    response: Response,
    target: Path,
    about: dict[str, object],
    max_bytes: int,
    seconds: float,
    running: Callable[[Conversion | None], None],
) -> None:
    """Write the list to `target`, which must not exist. Raises Failure, OSError, and what the response raises.

    `about` has `url` and `fetched_at`. `running` gets the subprocess, and None at its end; if it raises, the subprocess
    ends. So it does after `seconds`, but a read of the response is not interrupted.
    """
    headers = response.headers
    declared = of_response.declared(headers)
    about = about | {"etag": of_response.etag(headers), "delimited": of_response.is_delimited(headers)}
    with Conversion(target, of_response.form(headers), max_bytes, about) as conversion:
        late = threading.Event()

        def end() -> None:
            late.set()
            conversion.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        running(conversion)
        timer.start()
        try:
            _send(response, conversion, declared)
        except Exception:
            if late.is_set():
                raise _late(seconds) from None
            raise
        finally:
            timer.cancel()
            running(None)
        if late.is_set():
            raise _late(seconds)


def _send(response: Response, conversion: Conversion, declared: int | None) -> None:
    received = 0
    for piece in response.iter_raw(PIECE):
        received += len(piece)
        if not conversion.write(piece):
            break  # its answer has the reason
    else:
        if declared is not None and received != declared:
            reason = f"the list of projects has {received} bytes instead of {declared}"
            raise Failure("cut", reason, "none needed: it is retried")
    conversion.finish()


def _late(seconds: float) -> Failure:
    reason = f"the list of projects was not complete after {seconds:g} seconds"
    return Failure("timeout", reason, "raise DEVPI_MIRROR_LIST_TIMEOUT if the upstream is that slow")
