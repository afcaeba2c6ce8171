"""Files that an earlier build of this project left on the volume, with its names, are finished by this one."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable

from tests.support.container import Container
from tests.support.old_states import FIXTURES


def test_a_state_that_an_earlier_build_was_killed_over(container: Callable[..., Container]) -> None:
    """Killed by SIGKILL after the first of three renames, at commit 97ccb8b: nothing of it is discarded."""
    new = container()
    new.serverdir.mkdir()
    with tarfile.open(FIXTURES / "killed-by-97ccb8b-while-promoting.tar.gz") as archive:
        archive.extractall(new.serverdir)  # our own
    own = new.serverdir / ".sidecar"
    password = json.loads((own / "root-password.json").read_text())["password"]
    assert (own / "promotion.json").exists()
    assert not (new.serverdir / ".nodeinfo").exists()

    new.start().wait_ready()
    assert "finished the installation of a state that an earlier run had prepared" in new.log
    assert password == new.claim()
    assert 200 == new.login("root", password)
    assert not (own / "promotion.json").exists()


def test_an_import_that_failed_under_an_earlier_build(container: Callable[..., Container]) -> None:
    """Its record has an older field name: it is read, and the same archive is not retried."""
    failed = container()
    failed.init_dir.mkdir()
    (failed.init_dir / "backup.tar").write_bytes(b"no archive" * 1000)
    failed.start().wait_phase("failed")
    told = failed.status()["import"]
    assert 0 == failed.stop()
    record = failed.serverdir / ".sidecar" / "import.json"
    content = json.loads(record.read_text())
    error = content["status"]["error"]
    content["status"]["error"] = {"mend" if name == "hint" else name: value for name, value in error.items()}
    record.write_text(json.dumps(content))

    failed.start().wait_phase("failed")
    assert told["error"] == failed.status()["import"]["error"]
    assert told["started"] == failed.status()["import"]["started"], "it was not retried"
