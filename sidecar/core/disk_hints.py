"""Hints for failed reads and writes, chosen by errno."""

from __future__ import annotations

import errno
import os

SERVERDIR = "the serverdir's volume"

_FULL = "free space on {place}, or enlarge it"
_QUOTA = "raise the quota of {place}"
_READ_ONLY = "mount {place} read-write"
_CLOSED = "let uid {uid} write to {place}"
_GONE = "{place} was removed or unmounted: mount it and start again"
_REPLACED = "{place} was replaced: mount it and start again"
_NETWORK = "the network storage of {place} is unreachable: mount it and start again"
_BROKEN = "check the disk under {place}"
_DESCRIPTORS = "raise the limit of open files (--ulimit nofile)"
_MEMORY = "raise the memory limit"
_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _QUOTA,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _REPLACED,
    errno.ENODEV: _GONE,
    errno.ENXIO: _GONE,
    errno.ESTALE: _NETWORK,
    errno.ENOTCONN: _NETWORK,
    errno.EHOSTDOWN: _NETWORK,
    errno.EHOSTUNREACH: _NETWORK,
    errno.ETIMEDOUT: _NETWORK,
    errno.EIO: _BROKEN,
    errno.EUCLEAN: _BROKEN,
    errno.EBADMSG: _BROKEN,
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
    errno.ENOMEM: _MEMORY,
}


def words(error: OSError) -> str:
    """The text of the errno in lower case, without a path."""
    return os.strerror(error.errno).lower() if error.errno else "unknown error"


def hint_to_write(error: OSError, place: str = SERVERDIR) -> str:
    """The hint for an error while writing to `place`."""
    return _HINTS.get(error.errno or 0, "check {place}").format(place=place, uid=os.geteuid())


def hint_to_read(error: OSError, place: str, closed: str) -> str:
    """The hint for an error while reading `place`; `closed` is the one for missing permission."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        return closed.format(place=place, uid=os.geteuid())
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return f"mount {place} and start again"
    return hint_to_write(error, place)
