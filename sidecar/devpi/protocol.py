"""What the sidecar and its child say to each other, over a SOCK_SEQPACKET pair: one JSON object a packet.

The child speaks of devpi-server (`from_worker`), the sidecar tells it what to do next (`to_worker`). A password goes
this way because argv and the environment can be read by others.
"""

from __future__ import annotations

import json

from sidecar.devpi.from_worker import (
    REQUEST_SECONDS,
    ROUTES,
    Configured,
    ContentsSeen,
    Done,
    Drained,
    ImportState,
    Listening,
    MirrorsSeen,
    Noticed,
    OpenFiles,
    Prepared,
    PrepareFailed,
    PrimaryAnswered,
    Progress,
    Refused,
    Requests,
    RootPasswordChecked,
    RootPasswordSeen,
    RootPasswordSet,
    UnusableSeen,
)
from sidecar.devpi.message import Message
from sidecar.devpi.to_worker import (
    CheckRootPassword,
    Configure,
    Drain,
    HoldLock,
    Import,
    Initialise,
    Serve,
    SetRootPassword,
)

__all__ = [
    "PACKET_BYTES",
    "PROBE_HEADER",
    "REQUEST_SECONDS",
    "ROUTES",
    "UNASKED",
    "UNREPLICATED",
    "CheckRootPassword",
    "Configure",
    "Configured",
    "ContentsSeen",
    "Done",
    "Drain",
    "Drained",
    "HoldLock",
    "Import",
    "ImportState",
    "Initialise",
    "Listening",
    "Message",
    "MirrorsSeen",
    "Noticed",
    "OpenFiles",
    "PrepareFailed",
    "Prepared",
    "PrimaryAnswered",
    "Progress",
    "Refused",
    "Requests",
    "RootPasswordChecked",
    "RootPasswordSeen",
    "RootPasswordSet",
    "Serve",
    "SetRootPassword",
    "UnusableSeen",
    "decode",
    "encode",
]

PACKET_BYTES = 128 * 1024
"""No message is larger; Linux takes 208 KiB packets by default."""
PROBE_HEADER = "X-Devpi-Sidecar-Probe"
"""Carries a secret of this run in the sidecar's own requests, so that nobody else can stay out of the log."""
UNREPLICATED = 100
"""Files that a replica could not get, of which its `+status` names no more: the sidecar reads no answer of any size."""

UNASKED = (
    Progress,
    Noticed,
    RootPasswordSeen,
    UnusableSeen,
    MirrorsSeen,
    ContentsSeen,
    Requests,
    PrimaryAnswered,
)
"""What the child says without having been asked, at any time."""


def encode(message: Message) -> bytes:
    """One packet. Raises ValueError for a message that is too large."""
    fields = {name: getattr(message, name) for name in message.__dataclass_fields__}  # type: ignore[attr-defined]
    packet = json.dumps({"message": type(message).__name__, **fields}).encode()
    if len(packet) > PACKET_BYTES:
        raise ValueError(f"a {type(message).__name__} of {len(packet)} bytes is too large")
    return packet


def decode(packet: bytes) -> Message:
    """The message of one packet, as `encode` made it."""
    fields = json.loads(packet)
    kind = _KINDS[fields.pop("message")]
    return kind(**fields)


_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in Message.__subclasses__()}
