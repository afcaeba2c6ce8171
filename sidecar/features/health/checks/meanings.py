"""The checks of this feature and their meanings. `/readyz` lists them in this order."""

from __future__ import annotations

GATING = {
    "process": "devpi-server runs",
    "http": "devpi-server answers, and how fast",
    "write": "the data can be written and read",
    "lock": "no second server writes to the same data",
    "replication": "a replica has all changes of its primary",
}
WARNING = {
    "disk": "how much of the volume is free",
    "events": "changes still to be processed",
}
