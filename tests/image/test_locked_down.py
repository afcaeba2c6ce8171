"""It runs locked down, and on volumes of every origin."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.container import login_token, make_index, request, upload_form
from tests.support.engine import LOCKED_DOWN, Box, docker

pytestmark = pytest.mark.image

Make = Callable[..., Box]
UPLOAD = 160 * 2**20


@pytest.fixture
def host_folder() -> Iterator[Path]:
    """A folder of this machine, owned by root, that containers of any user can reach."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root can create folders of other owners")
    folder = Path(tempfile.mkdtemp(prefix="devpi-sidecar-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_big_upload_in_a_small_locked_down_container(box: Make, volume: str) -> None:
    """160 MB pass through 192 MiB of memory, onto a new volume, as a user that the image doesn't have."""
    locked = box(*LOCKED_DOWN, "--volume", f"{volume}:/var/lib/devpi").start().wait_ready()
    token = login_token(locked.devpi, locked.claim())
    index = make_index(locked.devpi, token)
    block = os.urandom(2**20)
    content = block * (UPLOAD // len(block))
    body, kind = upload_form("big", content)
    target = urlsplit(index)
    connection = http.client.HTTPConnection(target.netloc, timeout=120)
    connection.request(
        "POST", f"{target.path}/", body, {"Content-Type": kind, "Accept": "application/json"} | _auth(token)
    )
    answer = connection.getresponse()
    assert 200 == answer.status, answer.read()[:500]
    connection.close()

    (link,) = request(f"{index}/big", accept="application/json").json["result"]["1.0"]["+links"]
    assert hashlib.sha256(content).hexdigest() == hashlib.sha256(request(link["href"]).body).hexdigest()
    assert 200 == locked.get("/readyz").status
    owner = locked.exec(
        "python3", "-c", "import os; s = os.stat('/var/lib/devpi/.nodeinfo'); print(s.st_uid, s.st_gid)"
    ).stdout
    assert "12345 0\n" == owner
    assert 0 == locked.stop()
    assert not locked.state["OOMKilled"]


def _auth(token: str) -> dict[str, str]:
    import base64

    return {"X-Devpi-Auth": base64.b64encode(f"root:{token}".encode()).decode()}


def test_nothing_but_the_volume_and_tmp_is_written(box: Make) -> None:
    """Without --read-only, too, the root file system stays as it was built."""
    loose = box("--tmpfs", "/tmp").start().wait_ready()
    assert 200 == loose.login(loose.claim())
    changed = {line.split()[1] for line in docker("diff", loose.name).stdout.splitlines()}
    assert set() == {path for path in changed if not path.startswith(("/tmp", "/var/lib/devpi"))} - {"/var", "/var/lib"}


def test_a_host_folder_of_another_user_is_refused_with_the_command_to_type(box: Make, host_folder: Path) -> None:
    """Exit code 73; after exactly that `chown` it starts."""
    options = (*LOCKED_DOWN, "--volume", f"{host_folder}:/var/lib/devpi")
    refused = box(*options).start()
    assert 73 == refused.wait_end()
    (told,) = re.findall(r"on the host, run `(.*?)` for the folder that is mounted at /var/lib/devpi", refused.log)
    assert "chown -R 12345:0 FOLDER" == told
    assert "run this as uid" not in refused.log
    assert [] == list(host_folder.iterdir())

    subprocess.run(told.replace("FOLDER", str(host_folder)).split(), check=True)
    fixed = box(*options, name="fixed").start().wait_ready()
    assert 0 == fixed.stop()


def test_a_volume_that_an_older_image_wrote_as_root(box: Make, volume: str, debug_image: str) -> None:
    """It is refused and left untouched; after the `chown` from the log, its data is served."""
    mount = ("--volume", f"{volume}:/var/lib/devpi")
    older = box("--user", "0:0", *mount, name="older").start().wait_ready()
    password = older.claim()
    assert 0 == older.stop()
    refused = box(*LOCKED_DOWN, *mount, name="refused").start()
    assert 73 == refused.wait_end()
    assert "`chown -R 12345:0 FOLDER`" in refused.log
    assert "a named volume: see docs/docker.md" in refused.log

    docker(
        "run", "--rm", "--user", "0", *mount, "--entrypoint", "chown", debug_image, "-R", "12345:0", "/var/lib/devpi"
    )
    fixed = box(*LOCKED_DOWN, *mount, name="fixed").start().wait_ready()
    assert 200 == fixed.login(password)


def test_a_tmpfs_for_the_state_is_refused_with_the_options_to_add(box: Make) -> None:
    """Docker mounts it like the image's folder, but owned by root; with the options from the log it starts."""
    refused = box("--read-only", "--tmpfs", "/tmp", "--tmpfs", "/var/lib/devpi").start()
    assert 73 == refused.wait_end()
    (told,) = re.findall(r"`--tmpfs (/var/lib/devpi:\S+)`", refused.log)
    assert "/var/lib/devpi:uid=1000,mode=0700" == told
    light = box("--read-only", "--tmpfs", "/tmp", "--tmpfs", told, name="light").start().wait_ready()
    assert 0 == light.stop()


@pytest.mark.parametrize("mount", ["", "volume"])
def test_a_serverdir_that_the_image_does_not_have(box: Make, volume: str, mount: str) -> None:
    """Only root may create it, or owns a new volume there: the hint covers both."""
    options = ["--env", "DEVPI_SERVERDIR=/srv/devpi", *(["--volume", f"{volume}:/srv/devpi"] if mount else [])]
    refused = box(*options).start()
    assert 73 == refused.wait_end()
    hint = (
        "mounted at /srv/devpi (a named volume: see docs/docker.md" if mount else "mount a volume there that belongs to"
    )
    assert hint in refused.log.splitlines()[-1]


def test_root_is_told_that_it_is_not_needed(box: Make) -> None:
    """It works, but an attacker would be root; as the image is built, nothing is reported."""
    root = box("--user", "0", name="root").start().wait_ready()
    assert 1 == root.log.count("running as root")
    assert "WARNI [sidecar.container.main] running as root" in root.log
    user = box(name="user").start().wait_ready()
    assert "as root" not in user.log


def test_any_user_of_group_0_shares_a_volume_made_by_the_image(box: Make, volume: str) -> None:
    """Like OpenShift: an unknown uid, on a volume that took its owner from the image."""
    one = box("--read-only", "--tmpfs", "/tmp", "--user", "1000990000:0", "--volume", f"{volume}:/var/lib/devpi")
    one.start().wait_ready()
    assert 200 == one.login(one.claim())
    assert 0 == one.stop()


def test_a_volume_survives_a_new_container(box: Make, volume: str) -> None:
    """The next container serves what one wrote, and does not show the password again."""
    mount = ("--volume", f"{volume}:/var/lib/devpi")
    first = box(*mount, name="first").start().wait_ready()
    password = first.claim()
    assert 0 == first.stop()
    second = box(*mount, name="second").start().wait_ready()
    assert 200 == second.login(password)
    assert 1 == second.exec("sidecar", "claim", check=False).returncode
