"""Every name under `SERVERDIR/.sidecar`. They outlive the code: whoever renames one goes on reading the old one.

SERVERDIR/                      devpi-server's own files, and
    .sidecar/                   ours, 0700
        lock                    held (flock), as SERVERDIR is, by the sidecar and by its devpi-server
        marker.json             the state beside it is whole, and ours
        staging/                a state in the making: thrown away, unless
        promotion.json          says that it is whole; then what is left of it is moved out
        serving                 devpi-server may have left uploads half-made; a clean stop removes it
        tmp/                    where devpi-server spools uploads
        tool.json               a devpi tool makes a state here, and has not finished
        import.json             the status of the last import
        admin-token             the generated token of the admin routes
        root-password.json      the record of root's password
        root-hash               the digest of a hash that is known not to be the empty password's
        login-secret.json       devpi-server's login secret
        derivation              which key devpi-server derived from it, and how
        write-check             written and removed again by the check `write`
"""

from __future__ import annotations

from pathlib import Path

OWN = ".sidecar"
"""The folder in the serverdir that is the sidecar's own."""

ADMIN_TOKEN = "admin-token"  # noqa: S105 - a file's name
DERIVATION = "derivation"
IMPORT = "import.json"
LOCK = "lock"
LOGIN_SECRET = "login-secret.json"  # noqa: S105 - a file's name
MARKER = "marker.json"
INSTALLATION = "promotion.json"
ROOT_HASH = "root-hash"
ROOT_PASSWORD = "root-password.json"  # noqa: S105 - a file's name
SERVING = "serving"
STAGING = "staging"
TMP = "tmp"
TOOL = "tool.json"
WRITE_CHECK = "write-check"
WRITE_PROBE = ".tmp-probe"
"""Written and removed again when the serverdir is opened; a leftover goes as any `.tmp-…` does."""

STATE = "state"
"""The state in the making, in `STAGING`; beside it lies its `ROOT_PASSWORD`."""
UNPACKED = "unpacked"
"""The archives of an import, unpacked, in `STAGING`."""


class Layout:
    """Where all this is, in one serverdir."""

    def __init__(self, serverdir: Path) -> None:
        self.path = serverdir
        """The serverdir itself."""
        self.own = serverdir / OWN
        self.admin_token = self.own / ADMIN_TOKEN
        self.import_record = self.own / IMPORT
        self.marker = self.own / MARKER
        self.installation = self.own / INSTALLATION
        self.root_hash = self.own / ROOT_HASH
        self.root_password = self.own / ROOT_PASSWORD
        self.serving = self.own / SERVING
        self.tmp = self.own / TMP
        self.tool = self.own / TOOL
        self.staging = self.own / STAGING
        self.staged_state = self.staging / STATE
        self.staged_record = self.staging / ROOT_PASSWORD
        self.scratch = self.staging / UNPACKED
