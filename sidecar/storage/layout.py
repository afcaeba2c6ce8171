"""Every name under `SERVERDIR/.sidecar`. They outlive the code: after a rename, keep reading the old name.

SERVERDIR/                      devpi-server's own files, and
    .sidecar/                   ours, 0700
        lock                    locked (flock), as SERVERDIR is, by the sidecar and its devpi-server
        marker.json             the state in SERVERDIR is whole, and ours
        staging/                a new state: deleted, unless promotion.json exists
        promotion.json          the state in staging/ is whole and is being moved out
        serving                 devpi-server may have left partial uploads; a clean stop removes it
        tmp/                    devpi-server's spooled uploads
        tool.json               a devpi tool has not finished creating a state here
        import.json             the status of the last import
        admin-token             the generated token of the admin routes
        root-password.json      the record of root's password
        root-hash               the digest of a password hash that is known not to be that of the empty password
        login-secret.json       devpi-server's login secret
        derivation              which key devpi-server derived from it, and how
        mirrors/                the project list of each mirror's upstream; can be removed, then it is fetched again
        write-check             written and removed by the check `write`
"""

from __future__ import annotations

from pathlib import Path

OWN = ".sidecar"
"""The sidecar's own folder in the serverdir."""

ADMIN_TOKEN = "admin-token"  # noqa: S105 - a file's name
DERIVATION = "derivation"
IMPORT = "import.json"
LOCK = "lock"
LOGIN_SECRET = "login-secret.json"  # noqa: S105 - a file's name
MARKER = "marker.json"
INSTALLATION = "promotion.json"
MIRRORS = "mirrors"
ROOT_HASH = "root-hash"
ROOT_PASSWORD = "root-password.json"  # noqa: S105 - a file's name
SERVING = "serving"
STAGING = "staging"
TMP = "tmp"
TOOL = "tool.json"
WRITE_CHECK = "write-check"
WRITE_PROBE = ".tmp-probe"
"""Written and removed when the serverdir is opened; leftovers are removed like any `.tmp-…`."""

STATE = "state"
"""The new state in `STAGING`; its `ROOT_PASSWORD` is next to it."""
UNPACKED = "unpacked"
"""The unpacked archives of an import, in `STAGING`."""


class Layout:
    """The paths of all these files in one serverdir."""

    def __init__(self, serverdir: Path) -> None:
        self.path = serverdir
        """The serverdir itself."""
        self.own = serverdir / OWN
        self.admin_token = self.own / ADMIN_TOKEN
        self.import_record = self.own / IMPORT
        self.marker = self.own / MARKER
        self.installation = self.own / INSTALLATION
        self.mirrors = self.own / MIRRORS
        self.root_hash = self.own / ROOT_HASH
        self.root_password = self.own / ROOT_PASSWORD
        self.serving = self.own / SERVING
        self.tmp = self.own / TMP
        self.tool = self.own / TOOL
        self.staging = self.own / STAGING
        self.staged_state = self.staging / STATE
        self.staged_record = self.staging / ROOT_PASSWORD
        self.scratch = self.staging / UNPACKED
