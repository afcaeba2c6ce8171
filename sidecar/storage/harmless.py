"""Names that file systems, NAS appliances, desktops and git create in any folder, and that are nobody's data.

A folder that holds nothing else counts as empty. Deleting them would be pointless: their owners recreate them.
"""

from __future__ import annotations

import re

_NAMES = frozenset(
    name.casefold()
    for name in (
        # file systems and their snapshots and quotas
        "lost+found",
        ".snapshot",
        ".snapshots",
        ".snap",
        "~snapshot",
        ".zfs",
        ".glusterfs",
        ".trashcan",
        "aquota.user",
        "aquota.group",
        "quota.user",
        "quota.group",
        # Synology, QNAP
        "@eaDir",
        "#recycle",
        "#snapshot",
        "@Recycle",
        "@Recently-Snapshot",
        ".@__thumb",
        # desktops
        ".DS_Store",
        ".Spotlight-V100",
        ".Trashes",
        ".fseventsd",
        ".TemporaryItems",
        ".AppleDouble",
        ".AppleDB",
        "Network Trash Folder",
        "System Volume Information",
        "$RECYCLE.BIN",
        "Thumbs.db",
        "desktop.ini",
        ".directory",
        # synchronisation
        ".stfolder",
        ".stignore",
        ".stversions",
        # git keeps no empty folder
        ".gitkeep",
        ".keep",
        ".gitignore",
    )
)
_SHAPES = re.compile(r"\.nfs[0-9a-f]{8,}|\.fuse_hidden[0-9a-f]{8,}|\.Trash-\d+|\._.+", re.ASCII | re.IGNORECASE)
"""An open file deleted over NFS or FUSE, a freedesktop.org trash of a uid, the metadata of a Mac's file."""


def is_harmless(name: str) -> bool:
    """Whether an entry of this name is nobody's data. False for unknown names."""
    return name.casefold() in _NAMES or _SHAPES.fullmatch(name) is not None
