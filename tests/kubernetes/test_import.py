"""Imports on a real node: a long one that gets no requests and no restarts, and failed ones that report why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kubernetes.cluster import Site
from tests.support import exported
from tests.support.container import wait_for

pytestmark = pytest.mark.kubernetes

STRICTER = {
    "startupProbe": {"failureThreshold": 5},
    "livenessProbe": {"periodSeconds": 1, "failureThreshold": 2},
}
"""Shorter than the manifest's, so that an import of ten seconds is like one of minutes there."""
PROJECTS, FILES = 150, 20


def test_a_long_import_gets_no_requests_and_is_not_restarted(make_site: Callable[..., Site]) -> None:
    """No endpoint as long as it takes, progress on /status; then ready, in the same container."""
    site = make_site("import", components=("import",), container=STRICTER)
    exported.write(site.volume("devpi-exports") / "export", PROJECTS, FILES)
    site.apply()
    seen: list[int] = []

    def over() -> bool:
        status = site.sidecar("/status").json
        if status["phase"] == "importing" and site.addresses == (0, 1) and not site.ready:
            done = status["import"]["files"]["done"]
            if done not in seen and site.sidecar("/livez").status == site.sidecar("/startupz").status == 200:
                seen.append(done)
        assert status["phase"] != "failed", status
        return bool(status["phase"] == "ready")

    wait_for(lambda: site.container.get("started"), "a started container")
    wait_for(over, "the end of the import", 150)
    print(f"import of {PROJECTS * FILES} files seen at {seen}")
    assert len(seen) >= 3, "the import was too short for a result"
    assert seen == sorted(seen)
    site.wait_ready()
    site.wait_reachable()
    assert 0 == site.container["restartCount"]
    status = site.sidecar("/status").json["import"]
    assert ("completed", PROJECTS * FILES) == (status["state"], status["files"]["done"])
    assert 200 == site.login(exported.MASS_PASSWORD, "mass")


def bad_export(site: Site) -> None:
    """A file with the name of an archive, and a hint that can be asserted."""
    (site.volume("devpi-exports") / "backup.bz2").write_text("no tar archive")


def test_a_failed_import_says_why(make_site: Callable[..., Site]) -> None:
    """As an event of the pod, which stays alive and reports it on /status, too; or, if configured to exit, as the
    message of its exit with code 3. Both in parallel, because they wait for the same kubelet."""
    stays = make_site("fails", components=("import",))
    exits = make_site(
        "exits", components=("import",), container={"env": [{"name": "SIDECAR_ON_IMPORT_FAILURE", "value": "exit"}]}
    )
    for site in (stays, exits):
        bad_export(site)
        site.apply()
    reason = "the import failed at backup.bz2: is not a tar archive"
    hint = "pack the export again"

    described = wait_for(lambda: reason in stays.described and stays.described, "the event")
    assert hint in described
    assert "Warning  Unhealthy" in described
    status = stays.sidecar("/status").json
    assert "failed" == status["phase"] == status["import"]["state"]
    assert reason in status["failure"]["reason"]
    assert hint in status["import"]["error"]["hint"]
    assert (0, 1) == stays.addresses
    assert 0 == stays.container["restartCount"]

    ended = wait_for(lambda: exits.container["lastState"].get("terminated"), "the exit")
    assert 3 == ended["exitCode"]
    assert reason in ended["message"]
    assert hint in ended["message"].splitlines()[-1]
    assert reason in exits.described


def test_a_fixed_export_is_imported_by_a_restarted_pod(make_site: Callable[..., Site], home: Path) -> None:
    """After a failure, the hint of /status works."""
    site = make_site(
        "fixed", components=("import",), container={"env": [{"name": "SIDECAR_STOP_DELAY", "value": "0s"}]}
    )
    bad_export(site)
    site.apply()
    wait_for(lambda: site.sidecar("/status").json["phase"] == "failed", "the failure")
    archive = exported.pack(exported.write(home / "export"), home / "backup.bz2")
    shutil.copy(archive, site.home / "devpi-exports")
    site.kubectl("delete", "pod", "devpi-0", "--force", "--grace-period=0")
    site.wait_reachable()
    assert 200 == site.login(exported.MASS_PASSWORD, "mass")
