"""What the images contain, and what they don't."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import stat
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from tests.support import engine
from tests.support.engine import ROOT, docker, exported_files, trimmed

pytestmark = pytest.mark.image

MEGABYTE = 1000 * 1000
LIMITS = {"devpi": (23_500_000, 66_000_000), "devpi-web": (28_500_000, 88_000_000)}
"""Target → bytes of the gzip-compressed layers, as a registry counts them, and bytes unpacked."""
FORBIDDEN = {
    *("sh", "bash", "dash", "ash", "zsh", "busybox", "toybox", "perl"),
    *("apt", "apt-get", "dpkg", "apk", "rpm", "pip", "pip3", "uv", "easy_install", "ensurepip"),
    *("gcc", "cc", "c++", "ld", "as", "make", "strip", "ldconfig", "su", "sudo", "mount", "curl", "wget", "git"),
}
"""Programs that an attacker should not find."""
WRITABLE = {
    "/tmp": (0, 0, 0o1777),
    "/var/lib/devpi": (1000, 0, 0o770),
    "/mnt/devpi": (1000, 0, 0o770),
    "/devpi-init.d": (1000, 0, 0o775),
}
"""Folder → owner, group, mode."""


@dataclass
class Image:
    """The contents of one image."""

    target: str
    tag: str
    members: dict[str, tarfile.TarInfo]
    contents: dict[str, bytes]
    config: dict[str, Any]

    @property
    def files(self) -> Iterator[PurePosixPath]:
        """Return all regular files."""
        return (PurePosixPath(path) for path, member in self.members.items() if member.isfile())


@pytest.fixture(scope="module", params=["devpi", "devpi-web"])
def content(request: pytest.FixtureRequest) -> Image:
    """Both images, one after the other."""
    tag = request.getfixturevalue("image" if request.param == "devpi" else "web_image")
    members, contents = {}, {}
    for member, data in exported_files(tag):
        path = "/" + member.name.rstrip("/")
        members[path], contents[path] = member, data
    (told,) = json.loads(docker("image", "inspect", tag).stdout)
    return Image(request.param, tag, members, contents, told["Config"])


def test_it_is_as_small_as_promised(content: Image) -> None:
    """Layers as a registry stores them, and their unpacked size."""
    packed = 0
    with subprocess.Popen(["docker", "save", content.tag], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        with tarfile.open(fileobj=io.BytesIO(saving.stdout.read())) as archive:
            (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
            for layer in manifest["Layers"]:
                packed += len(gzip.compress(archive.extractfile(layer).read(), 6))  # type: ignore[union-attr]
    unpacked = int(docker("image", "inspect", "--format", "{{.Size}}", content.tag).stdout)
    print(f"{content.target}: {packed / MEGABYTE:.2f} MB compressed, {unpacked / MEGABYTE:.2f} MB unpacked")
    most_packed, most_unpacked = LIMITS[content.target]
    assert most_packed >= packed
    assert most_unpacked >= unpacked


def test_there_is_no_shell_package_manager_pip_or_compiler(content: Image) -> None:
    """Neither as a program nor as a package."""
    names = {path for path in content.files if path.name in FORBIDDEN}
    assert set() == names
    assert [] == [
        path for path in content.members if re.search(r"/(pip|ensurepip|wheel)(-[^/]*\.dist-info)?(/|$)", path)
    ]


def test_every_program_is_one_that_we_know(content: Image) -> None:
    """Executables other than libraries: Python, tini, env, devpi's commands and the sidecar's."""
    programs = {
        path.name
        for path in content.files
        if content.members[str(path)].mode & 0o111 and ".so" not in path.name and "/site-packages/" not in str(path)
    }
    python = {name for name in programs if re.fullmatch(r"python3\.\d+", name)}
    known = {"env", "tini", "sidecar", "devpi", "devpi-server", "devpi-gen-config", "devpi-gen-secret"}
    known |= {"devpi-init", "devpi-import", "devpi-export", "devpi-passwd", "devpi-fsck", "devpi-clear-search-index"}
    assert 1 == len(python)
    assert set() == programs - python - known
    assert known - {"devpi-clear-search-index"} <= programs


def test_nothing_is_set_uid_and_nobody_may_write(content: Image) -> None:
    """Except into the folders that are meant for it."""
    odd = {
        path: oct(member.mode)
        for path, member in content.members.items()
        if path not in WRITABLE
        and not member.issym()
        and (
            member.mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWGRP | stat.S_IWOTH)
            or (member.uid, member.gid) != (0, 0)
        )
    }
    assert {} == odd
    assert WRITABLE == {
        path: (content.members[path].uid, content.members[path].gid, content.members[path].mode) for path in WRITABLE
    }


def test_every_link_leads_somewhere(content: Image) -> None:
    """Trimming left no dangling links."""
    loose = []
    for path, member in content.members.items():
        if member.issym():
            folder = PurePosixPath(path).parent
            for name in ("/lib", "/lib64", "/bin"):  # links themselves
                if str(folder).startswith(f"{name}/") or str(folder) == name:
                    folder = PurePosixPath("/usr" + str(folder))
            target = PurePosixPath(re.sub(r"/[^/]+/\.\.", "", str(folder / member.linkname)))
            if str(target) not in content.members and "/usr" + str(target) not in content.members:
                loose.append(f"{path} → {member.linkname}")
    assert [] == loose


def test_the_certificates_are_mozilla_s_alone(content: Image) -> None:
    """Byte for byte those of Debian's package, without any that the build machine has added."""
    bundle = content.contents["/etc/ssl/certs/ca-certificates.crt"]
    stage = engine.unique("build")
    try:
        engine.build("build", stage)
        expected = docker("run", "--rm", stage, "sh", "-c", "cat /usr/share/ca-certificates/mozilla/*.crt").stdout
    finally:
        docker("rmi", stage, check=False)
    assert certificates(expected) == certificates(bundle.decode())
    assert 100 < len(certificates(expected))
    own = {
        each
        for path in Path("/usr/local/share/ca-certificates").glob("*.crt")
        for each in certificates(path.read_text())
    }
    holders = [
        path
        for path, data in content.contents.items()
        if b"BEGIN CERTIFICATE" in data and own & certificates(data.decode(errors="replace"))
    ]
    assert [] == holders


def certificates(text: str) -> set[str]:
    """Return the certificates in a text, by their digests."""
    found = re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", text, re.DOTALL)
    return {hashlib.sha256("".join(each.split()).encode()).hexdigest() for each in found}


def test_there_are_no_secrets_and_nothing_of_the_build_machine(content: Image) -> None:
    """No keys, credentials, or configuration of a proxy or an index, in files, environment or history."""
    names = re.compile(
        r"(id_[rd]sa|id_ed25519|\.netrc|\.pypirc|pip\.conf|\.git|\.env|\.npmrc|.*\.pem|.*\.key|authorized_keys)"
    )
    bundles = re.compile(r"/usr/lib/ssl/cert\.pem|.*/certifi/cacert\.pem")
    odd = [path for path in content.members if names.fullmatch(PurePosixPath(path).name)]
    assert [] == [path for path in odd if not bundles.fullmatch(path)]
    keys = re.compile(rb"^-----BEGIN (RSA |EC |OPENSSH |ENCRYPTED )?PRIVATE KEY-----\n[A-Za-z0-9+/=]{20}", re.MULTILINE)
    assert [] == [path for path, data in content.contents.items() if keys.search(data)]
    told = (
        "\n".join(content.config["Env"])
        + docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", content.tag).stdout
    )
    for value in engine.told().values():  # the image's labels
        told = told.replace(value, "")
    assert None is re.search(r"index[-_]url|proxy|token|password=|://", told, re.IGNORECASE)


def test_the_labels_tell_what_it_is(content: Image) -> None:
    """All labels of the Open Container Initiative that apply; build arguments are passed on."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): value for name, value in content.config["Labels"].items()}
    base = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    told = {name.lower(): value for name, value in engine.told().items()}
    assert {
        "title": "devpi-sidecar",
        "description": labels["description"],
        "licenses": "MIT",
        "version": version,
        "revision": told["revision"],
        "created": told["created"],
        "source": told["source"],
        "url": told["url"],
        "base.name": base[0],
        "base.digest": told["python_image_digest"],
    } == labels
    assert labels["description"]
    assert str(engine.source_date()) == f"{datetime.fromisoformat(labels['created']).timestamp():.0f}"


def test_how_it_is_run(content: Image) -> None:
    """A numeric user, tini first, readiness as health, ports, volume and signal."""
    config = content.config
    assert "1000:1000" == config["User"]
    init = ["env", "--block-signal=TERM,INT", "tini", "--"]
    assert [*init, "python3", "/opt/devpi/entrypoint.py"] == config["Entrypoint"]
    assert config["Cmd"] is None
    second = 1_000_000_000
    assert {
        "Test": ["CMD", "sidecar", "healthcheck", "--wait"],
        "StartPeriod": 5 * second,
        "StartInterval": second,
        "Interval": 10 * second,
        "Timeout": 168 * 3600 * second,
        "Retries": 3,
    } == config["Healthcheck"]
    assert {"3141/tcp", "3142/tcp"} == set(config["ExposedPorts"])
    assert {"/var/lib/devpi"} == set(config["Volumes"])
    assert "SIGTERM" == config["StopSignal"]


def test_both_targets_are_run_alike(image: str, web_image: str) -> None:
    """Only the files differ."""
    configs = [json.loads(docker("image", "inspect", tag).stdout)[0]["Config"] for tag in (image, web_image)]
    assert configs[0] == configs[1]


def test_no_architecture_is_named() -> None:
    """So that arm64 builds, too."""
    named = re.compile(r"amd64|x86.64|arm64|aarch64|linux-gnu|i386", re.IGNORECASE)
    builders = [ROOT / "Dockerfile", *(ROOT / "docker").glob("*_files.py"), ROOT / "docker" / "rootfs.py"]
    assert [] == [path.name for path in builders if named.search(path.read_text())]


def test_another_user_may_be_built_in(image: str) -> None:
    """`--build-arg UID` and `GID`: the user, its name, and the owner of the volume's folder."""
    tag = engine.unique("uid")
    try:
        engine.build("devpi", tag, "--build-arg", "UID=4321", "--build-arg", "GID=4322")
        code = "import os, pwd; uid = os.getuid(); owner = os.stat('/var/lib/devpi').st_uid; "
        code += "print(uid, os.getgid(), pwd.getpwuid(uid)[0], owner)"
        assert "4321 4322 devpi 4321\n" == docker("run", "--rm", tag, "python3", "-c", code).stdout
    finally:
        docker("rmi", tag, check=False)


def test_every_package_can_be_imported(content: Image) -> None:
    """Trimming removed nothing that a package needs, except the parts of devpi for its own tests."""
    code = """
import importlib, os, sysconfig, warnings
warnings.simplefilter("ignore")
failed = []
for entry in sorted(os.listdir(sysconfig.get_path("purelib"))):
    name = entry.partition(".")[0]
    if name.isidentifier() and not entry.endswith((".pth", "-info")) and name != "__pycache__":
        try:
            importlib.import_module(name)
        except Exception as error:
            failed.append(f"{name}: {error!r}")
print(failed)
"""
    assert "[]\n" == docker("run", "--rm", "--network", "none", content.tag, "python3", "-c", code).stdout


@pytest.mark.parametrize("name", ["image", "web_image"])
def test_what_is_left_out_of_the_standard_library_is_what_the_list_says(
    name: str, request: pytest.FixtureRequest
) -> None:
    """docker/trimmed.py lists every module that the base image has and this image hasn't, and no other."""
    code = (
        "import sys\nfrom importlib.machinery import PathFinder, BuiltinImporter, FrozenImporter\n"
        "finders = (PathFinder, BuiltinImporter, FrozenImporter)\n"
        "print(*[n for n in sys.stdlib_module_names if any(f.find_spec(n) for f in finders)])"
    )
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    run = ("run", "--rm", "--network", "none", "--entrypoint", "python3")
    whole, here = (
        set(docker(*run, tag, "-I", "-S", "-c", code).stdout.split()) for tag in (base, request.getfixturevalue(name))
    )
    assert len(here) > 200
    assert set() == here - whole
    assert {module for module in whole if trimmed().of_stdlib(module)} - {"__hello__", "__phello__"} == whole - here


def test_mozilla_s_certificates_are_used_by_default(image: str) -> None:
    """By Python's ssl, and by the packages that bring a bundle of their own."""
    code = "import ssl, certifi; a = len(ssl.create_default_context().get_ca_certs()); "
    code += "c = ssl.create_default_context(cafile=certifi.where()); print(a > 100, a == len(c.get_ca_certs()))"
    assert "True True\n" == docker("run", "--rm", "--network", "none", image, "python3", "-c", code).stdout
