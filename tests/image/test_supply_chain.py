"""What the images are made of: every package is on a list, with its licence; the Dockerfile is clean."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support.engine import ROOT, docker

pytestmark = pytest.mark.image

ALLOWED = ROOT / "docker" / "packages.txt"


def allowed() -> dict[tuple[str, str], tuple[str, str]]:
    """Kind and name of a package → where it may be, and its licence."""
    lines = [line for line in ALLOWED.read_text().splitlines() if line.strip() and not line.startswith("#")]
    rows = [line.split(None, 3) for line in lines]
    return {(kind, name): (where, licence) for kind, name, where, licence in rows}


@pytest.fixture(scope="session")
def syft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """syft, with the version and digest of docker/syft.lock, in an environment of its own."""
    home = tmp_path_factory.mktemp("syft")
    venv.create(home, with_pip=True)
    pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "--requirement", ROOT / "docker" / "syft.lock"], check=True, timeout=300)
    return home / "bin" / "syft"


@pytest.mark.parametrize("target", ["devpi", "devpi-web"])
def test_no_package_surprises(target: str, syft: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """syft's bill of materials and docker/packages.txt list the same packages."""
    tag = request.getfixturevalue("image" if target == "devpi" else "web_image")
    archive = tmp_path / "image.tar"
    docker("save", "--output", archive, tag)
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    done = subprocess.run(
        [syft, "scan", f"docker-archive:{archive}", "--output", "syft-json", "--quiet"],
        env=environ, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    bill = json.loads(done.stdout)
    found = {(each["type"], re.sub(r"[-_.]+", "-", each["name"]).lower()) for each in bill["artifacts"]}
    named = {key: where for key, (where, _) in allowed().items() if where != "web" or target == "devpi-web"}
    assert set() == found - named.keys(), "not in docker/packages.txt"
    lost = {key for key, where in named.items() if where != "debian"} - found
    assert set() == lost, "in docker/packages.txt, but not in the image"


def test_every_allowed_package_has_a_licence_that_we_accept() -> None:
    """All allow running and redistributing the image; copyleft ones are Debian's unchanged programs and libraries."""
    licences = {licence for _, licence in allowed().values()}
    accepted = re.compile(
        r"(MIT|BSD|Apache|PSF|MPL|ZPL|ISC|Python|OpenSSL|public-domain|zlib|Unlicense|0BSD|Expat|bzip2|(L?GPL)[-\w.+]*)"
    )
    assert [] == sorted(licence for licence in licences if not accepted.match(licence))


def test_the_licence_texts_come_along(image: str) -> None:
    """Of every Python package that has one, and of the interpreter's parts if the base image has them."""
    code = (
        "import importlib.metadata as m, pathlib, sysconfig\n"
        "root = pathlib.Path(sysconfig.get_path('purelib'))\n"
        "for info in sorted(root.glob('*.dist-info')):\n"
        "    words = ('LICEN', 'COPYING', 'NOTICE', 'AUTHORS')\n"
        "    texts = [p for p in info.rglob('*') if any(word in p.name.upper() for word in words)]\n"
        "    meta = (info / 'METADATA').read_text()\n"
        "    if 'License-File:' in meta and not texts: print(info.name)\n"
    )
    assert "" == docker("run", "--rm", "--network", "none", image, "python3", "-c", code).stdout


def test_the_dockerfile_is_clean() -> None:
    """hadolint, with only those exceptions that a comment explains."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("NOT TESTED: hadolint isn't installed (python3 dev.py test brings it)")
    done = subprocess.run([program, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ("", 0) == (done.stdout + done.stderr, done.returncode)
