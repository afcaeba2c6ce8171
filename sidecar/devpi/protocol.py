"""The messages between the sidecar and its child, over a SOCK_SEQPACKET pair: one JSON object a packet.

`from_worker` has the child's messages, `to_worker` the sidecar's. Passwords are sent this way because other processes
can read argv and the environment.
"""

from __future__ import annotations

import json

from sidecar.devpi.from_worker import (
    REQUEST_SECONDS,
    ROUTES,
    UPSTREAM_SECONDS,
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
    UpstreamsSeen,
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
    "UPSTREAM_SECONDS",
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
    "UpstreamsSeen",
    "decode",
    "encode",
]

PACKET_BYTES = 128 * 1024
"""Maximum size of a message; Linux accepts packets of 208 KiB by default."""
PROBE_HEADER = "X-Devpi-Sidecar-Probe"
"""Carries a secret of this run in the sidecar's own requests, so that no other client can stay out of the log."""
UNREPLICATED = 100
"""Maximum files that a replica could not get in its `+status`, because the sidecar limits the answer's size."""

UNASKED = (
    Progress,
    Noticed,
    RootPasswordSeen,
    UnusableSeen,
    MirrorsSeen,
    UpstreamsSeen,
    ContentsSeen,
    Requests,
    PrimaryAnswered,
)
"""The messages that the child sends unasked, at any time."""


def encode(message: Message) -> bytes:
    """Return a message as one packet. Raises ValueError if it is too large."""
    fields = {name: getattr(message, name) for name in message.__dataclass_fields__}  # type: ignore[attr-defined]
    packet = json.dumps({"message": type(message).__name__, **fields}).encode()
    if len(packet) > PACKET_BYTES:
        raise ValueError(f"a {type(message).__name__} of {len(packet)} bytes is too large")
    return packet


def decode(packet: bytes) -> Message:
    """Return the message of a packet that `encode` made."""
    fields = json.loads(packet)
    kind = _KINDS[fields.pop("message")]
    return kind(**fields)


_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in Message.__subclasses__()}
