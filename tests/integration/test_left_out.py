"""Unsafe members are left out alone: the rest is served, and all interfaces report what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import exported
from tests.support.container import Container, request
from tests.support.exported import MASS_PASSWORD

Make = Callable[..., Container]
ABOVE = "../dev/evil/1.0/evil-1.0.zip"


@pytest.fixture
def unsafe(tmp_path: Path) -> Path:
    """An export of two projects, and what devpi-export writes of the user `..`, whose file lies outside of it."""
    export = exported.write(tmp_path / "backup" / "export", projects=2)
    data = exported.load(export)
    data["users"][".."] = data["users"]["mass"] | {"username": ".."}
    (file,) = [file for file in data["indexes"]["mass/dev"]["files"] if file["projectname"] == "mass-0000"]
    outside = export.parent / "dev/evil/1.0/evil-1.0.zip"
    outside.parent.mkdir(parents=True)
    shutil.copy(export / file["relpath"], outside)
    data["indexes"]["../dev"] = {
        "indexconfig": {"type": "stage", "bases": [], "volatile": True},
        "projects": {"evil": {"1.0": {"name": "evil", "version": "1.0"}}},
        "files": [file | {"projectname": "evil", "version": "1.0", "relpath": ABOVE}],
    }
    exported.save(export, data)
    return export


def test_what_is_left_out_is_named(container: Make, unsafe: Path) -> None:
    """On `/status`, the page, by `sidecar status` and in the log, with the count; it survives a restart."""
    new = container()
    shutil.copytree(unsafe.parent, new.init_dir / "backup")
    new.start().wait_ready()
    said = {"archive": "backup", "member": ABOVE, "reason": "leads out of the export"}
    imported = new.status()["import"]
    assert ("completed", {"total": 1, "first": [said]}) == (imported["state"], imported["left_out"])
    assert {"done": 2, "total": 2} == imported["files"]
    assert f"the import left out unsafe members (1): {ABOVE} of backup" in new.log
    page = new.get("/", accept="text/html").body.decode()
    assert 'id="left-out"' in page
    assert ABOVE in page
    told = new.sidecar("status").stdout
    assert "left out, not safe to load: 1" in told
    assert f"{ABOVE} of backup: leads out of the export" in told
    assert 200 == new.login("mass", MASS_PASSWORD)
    assert 200 == request(f"{new.devpi}/mass/dev/+simple/mass-0001/").status
    assert not (new.serverdir / "dev").exists()
    assert 0 == new.stop()
    new.start().wait_ready()
    assert {"total": 1, "first": [said]} == new.status()["import"]["left_out"]


def test_strictly_it_is_refused(container: Make, unsafe: Path) -> None:
    """SIDECAR_IMPORT_STRICT=true: nothing is loaded; without the setting, as the hint says, the import is retried."""
    new = container(env={"SIDECAR_IMPORT_STRICT": "true"})
    shutil.copytree(unsafe.parent, new.init_dir / "backup")
    error = new.start().wait_phase("failed")["import"]["error"]
    assert ("backup", ABOVE, "leads out of the export") == (error["archive"], error["member"], error["reason"])
    assert "unset SIDECAR_IMPORT_STRICT to leave it out" in error["hint"]
    assert ABOVE in json.dumps(error)
    assert 0 == new.stop()
    del new.env["SIDECAR_IMPORT_STRICT"]
    new.start().wait_ready()
    assert 1 == new.status()["import"]["left_out"]["total"]
