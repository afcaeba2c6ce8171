"""Checks files of CA certificates before they are needed."""

from __future__ import annotations

import stat
from pathlib import Path

from sidecar.core.disk_hints import hint_to_read

MAX_BYTES = 16 * 2**20
"""Size of a file of certificates; those of all public CAs together take 0.3 MB."""


def problem_with(path: Path) -> tuple[str, str] | None:
    """Return what is wrong with a PEM file of CA certificates, and the hint; None: all of it is readable."""
    import ssl  # here, because it takes 20 ms at each start

    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return f"{str(path)!r} is not a regular file", "set the path of a PEM file with certificates"
        if status.st_size > MAX_BYTES:
            return f"{str(path)!r} has {status.st_size} bytes", f"use a PEM file of at most {MAX_BYTES} bytes"
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:  # an OSError, too
        return (
            f"{str(path)!r} has no valid PEM certificate",
            "use a PEM file (BEGIN CERTIFICATE); convert a DER file with openssl x509 -inform der",
        )
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        mount = "mount the file so that uid {uid} can read it"
        hint = hint_to_read(error, "the file", mount) if isinstance(error, OSError) else "set the path of a file"
        return f"can't read {str(path)!r}: {reason}", hint
    return None
