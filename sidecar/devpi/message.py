"""The base of all messages between the sidecar and its child."""

from __future__ import annotations


class Message:
    """One packet. Its subclasses are dataclasses, looked up by name."""
