"""Names that other software creates in a folder, and that are nobody's data."""

from __future__ import annotations

HARMLESS = [
    *("lost+found", ".snapshot", ".snapshots", ".zfs", ".glusterfs", "~snapshot"),
    *("@eaDir", "#recycle", "#snapshot", "@Recycle", ".@__thumb", "@Recently-Snapshot"),
    *(".nfs00000000012ab34c00000001", ".fuse_hidden0000000300000001", ".Trash-1000", ".Trash-0"),
    *(".gitkeep", ".keep", ".gitignore", "aquota.user", "aquota.group", "quota.user", "quota.group"),
    *(".DS_Store", "._.DS_Store", ".Spotlight-V100", ".fseventsd", ".Trashes", ".TemporaryItems"),
    *("System Volume Information", "$RECYCLE.BIN", "$Recycle.Bin", "Thumbs.db", "desktop.ini", "DESKTOP.INI"),
    *(".stfolder", ".stignore", ".stversions"),
]
