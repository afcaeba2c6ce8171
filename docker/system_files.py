"""Copy what the image needs of a Linux system: shared libraries, users, certificates, records of packages."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rootfs import RootFilesystem

LIBRARIES_OPENED_LATE = ("libgcc_s.so.1",)
"""Not linked: glibc loads it when a thread is cancelled or ends. Without it argon2's threads crash (exit code 139)."""


def copy_libraries(image: RootFilesystem) -> None:
    """Copy all shared libraries, linked or opened late, and strip the symbols of all programs and libraries."""
    programs = [path for path in image.files() if _is_elf(path)]
    needed = {library for program in programs for library in _linked(program)}
    places = {library.parent for library in needed}
    for name in LIBRARIES_OPENED_LATE:
        found = sorted(place / name for place in places if (place / name).exists())
        if not found:
            raise SystemExit(f"{name} is not in {', '.join(sorted(map(str, places)))}")
        needed.add(found[0])
        needed.update(_linked(found[0]))
    libraries = [image.copy(library) for library in sorted(needed)]
    for path in {*programs, *libraries}:
        subprocess.run(["strip", "--strip-unneeded", path], check=True)
    image.folder(Path("/etc"))
    for path in sorted([Path("/etc/ld.so.conf"), *Path("/etc/ld.so.conf.d").glob("*.conf")]):
        image.copy(path)
    subprocess.run(["ldconfig", "-r", image.root], check=True)  # for /usr/local/lib, which some Pythons use
    shutil.rmtree(image / "/var/cache", ignore_errors=True)


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _linked(program: Path) -> set[Path]:
    """Return the libraries that the loader finds for a program, and the loader."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    if missing := re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE):
        raise SystemExit(f"{program} needs {', '.join(missing)}")
    return {Path(path) for path in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", done.stdout, re.MULTILINE)}


def write_users(image: RootFilesystem, uid: int, gid: int) -> None:
    """Write users and groups, and the other files in /etc that a C library or a scanner reads."""
    users = {0: "root:x:0:0:root:/tmp:/usr/sbin/nologin", uid: f"devpi:x:{uid}:{gid}:devpi:/tmp:/usr/sbin/nologin"}
    image.write("/etc/passwd", "".join(f"{line}\n" for line in users.values()))
    groups = {0: "root:x:0:", gid: f"devpi:x:{gid}:"} if gid else {0: "root:x:0:"}
    image.write("/etc/group", "".join(f"{line}\n" for line in groups.values()))
    image.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    image.copy(Path("/etc/os-release"))


def write_certificates(image: RootFilesystem) -> None:
    """Write Mozilla's certificates from Debian's package, without those that this machine has added."""
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    certificates = sorted(Path("/usr/share/ca-certificates/mozilla").glob("*.crt"))
    if not certificates:
        raise SystemExit("no certificates found: install ca-certificates")
    image.write(str(bundle), "".join(path.read_text() for path in certificates))
    image.origins.update(certificates)
    expected = Path(ssl.get_default_verify_paths().openssl_cafile)
    image.folder(expected.parent)
    (image / expected).symlink_to(bundle)
    for own in sorted(image.root.rglob("certifi/cacert.pem")):  # one bundle for all, as in Debian
        own.unlink()
        own.symlink_to(bundle)


def describe_packages(image: RootFilesystem) -> None:
    """Write the records of the Debian packages that files come from, where scanners look, and copyright files.

    The place is that of distroless images. The build stage may lack copyright files.
    """
    names = {str(origin) for origin in image.origins}
    names |= {name.removeprefix("/usr") for name in names}  # dpkg's names from before /lib became a link
    # exits with code 1 for files that belong to no package, as the official images' Python
    done = subprocess.run(["dpkg", "--search", *sorted(names)], capture_output=True, text=True, check=False)
    found = (line.rpartition(": ") for line in done.stdout.splitlines())
    packages = {owner for owners, _, name in found if name in names for owner in owners.split(", ")[:1]}
    for package in sorted(packages):
        status = subprocess.run(["dpkg-query", "--status", package], capture_output=True, text=True, check=True).stdout
        kept = re.sub(r"^Conffiles:\n(?: .*\n)*", "", status, flags=re.MULTILINE)
        short = package.partition(":")[0]
        image.write(f"/var/lib/dpkg/status.d/{short}", kept)
        copyright_file = Path("/usr/share/doc") / short / "copyright"
        if copyright_file.exists():
            image.copy(copyright_file.resolve(), copyright_file)
