"""Assemble the root file system of the image: what runs, and nothing else. Called by the Dockerfile alone.

    python3 rootfs.py --environment /opt/devpi --uid 1000 --gid 1000 /rootfs

Runs in a build stage, with the interpreter that the image gets, as root. It takes the virtual environment, the
interpreter behind it, the standard library, the shared libraries that these need, certificates and the few files that a
C library looks for. Where things are, it asks Python, so that it works with Debian's Python and with the official
images' own build. The result depends on nothing but the input: no clock, no order of a directory, no hash seed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import py_compile
import re
import shutil
import ssl
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import trimmed

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH") or 946684800)
"""Modification time of everything, in seconds; without the variable 2000-01-01: zip files can't tell earlier ones."""

THROUGH_ENTRYPOINT = (
    *("devpi-init", "devpi-import", "devpi-passwd", "devpi-fsck", "devpi-export"),
    "devpi-clear-search-index",  # devpi-web's
)
"""devpi's tools that must not pass by the serverdir's lock, also where `docker exec` runs them, if they are there."""

LIBRARIES_OPENED_LATE = ("libgcc_s.so.1",)
"""glibc loads it when a thread is cancelled or ends; argon2's threads do, and crash without it (exit code 139)."""


def main() -> int:
    """Assemble it. Any failure ends the build with a traceback."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--environment", type=Path, required=True, help="the virtual environment to take along")
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--gid", type=int, required=True)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()

    image = RootFilesystem(options.target)
    executable = Path(sys.executable).resolve()
    image.copy(executable)
    copy_standard_library(image)
    copy_environment(image, options.environment, executable)
    for program in ("tini", "env"):
        image.copy(Path("/usr/bin") / program)
    copy_libraries(image)
    write_system_files(image, options.uid, options.gid)
    write_certificates(image)
    describe_packages(image)
    compile_standard_library(image)
    compile_environment(image, options.environment)
    image.normalise()
    make_writable_folders(image, options.uid)
    return 0


class RootFilesystem:
    """The tree that becomes the image's `/`. Paths given to it are absolute, as they will be there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.origins: set[Path] = set()
        """The build stage's files that were copied, by their real paths."""
        root.mkdir(parents=True)

    def __truediv__(self, path: Path | str) -> Path:
        """Where `path` of the image lies now."""
        return self.root / str(path).lstrip("/")

    def folder(self, path: Path) -> Path:
        """Make a folder of the image. Links in the way (`/lib` → `usr/lib`) are made as the build stage has them."""
        if path == Path("/"):
            return self.root
        parent = self.folder(path.parent)
        here = parent / path.name
        real = Path("/") / parent.relative_to(self.root) / path.name
        if real.is_symlink():
            if not here.is_symlink():
                here.symlink_to(real.readlink())
            return self.folder(Path(os.path.normpath(real.parent / real.readlink())))
        here.mkdir(exist_ok=True)
        return here

    def copy(self, source: Path, to: Path | None = None) -> Path:
        """Copy one file to `to`, or to the path that it has; a link as a link, with all that it leads to."""
        target = self.folder((to or source).parent) / (to or source).name
        if to is None and source.is_symlink():
            if not target.is_symlink():
                target.symlink_to(source.readlink())
            return self.copy(Path(os.path.normpath(source.parent.resolve() / source.readlink())))
        if not target.exists():
            shutil.copyfile(source, target)
            shutil.copymode(source, target)
        self.origins.add(source.resolve())
        return target

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write one file."""
        target = self.folder(Path(path).parent) / Path(path).name
        target.write_text(text)
        target.chmod(mode)

    def files(self, below: Path | str = "/") -> list[Path]:
        """All regular files below a folder, in an order that is always the same."""
        return sorted(path for path in (self / below).rglob("*") if path.is_file() and not path.is_symlink())

    def normalise(self) -> None:
        """One owner, one time, and modes without surprises: nobody may write, nothing is set-uid."""
        for path in [self.root, *sorted(self.root.rglob("*"))]:
            os.chown(path, 0, 0, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


# --- Python ---------------------------------------------------------------------------------------------------------


def copy_standard_library(image: RootFilesystem) -> None:
    """The standard library, without what only people at a keyboard, or CPython's own tests, use."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    config = sysconfig.get_config_var("LIBPL")  # the Makefile and the static library, for those who embed Python
    for source in _walk(stdlib):
        relative = source.relative_to(stdlib)
        if (
            not trimmed.of_stdlib(relative.parts[0].removesuffix(".py"))
            and not (source.suffix == ".so" and trimmed.of_stdlib(source.name.partition(".")[0]))
            and not {"__pycache__", "tests"} & set(relative.parts)
            and not trimmed.PROMPT.fullmatch(relative.as_posix())
            and not (config and source.is_relative_to(config))
            and source.suffix in {".py", ".so", ".txt"}
        ):
            image.copy(source)


def copy_environment(image: RootFilesystem, environment: Path, executable: Path) -> None:
    """The virtual environment: packages, the commands for operators, the entrypoint."""
    packages = site_packages(environment)
    for source in _walk(packages):
        if not trimmed.of_packages(source.relative_to(packages).as_posix()):
            copied = image.copy(source)
            if source.name == "METADATA":  # without the README in it
                head = source.read_text(encoding="utf-8").partition("\n\n")[0]
                copied.write_text(f"{head}\n", encoding="utf-8")
    for script in sorted((environment / "bin").iterdir()):
        if trimmed.SCRIPTS_KEPT.fullmatch(script.name):
            image.copy(script)
    for name in THROUGH_ENTRYPOINT:
        if (environment / "bin" / name).exists():
            image.write(f"{environment}/bin/{name}", _through_entrypoint(environment, name), 0o755)
    # `-I`: neither the environment nor the current folder decides what is imported
    image.write(
        f"{environment}/bin/sidecar",
        f"#!{environment}/bin/python3 -I\nimport sys\n\nfrom sidecar.cli.__main__ import main\n\nsys.exit(main())\n",
        0o755,
    )
    image.copy(environment / "entrypoint.py")
    (image / environment / "bin" / "python3").symlink_to(executable)
    version = "{}.{}.{}".format(*sys.version_info[:3])
    image.write(
        f"{environment}/pyvenv.cfg",
        f"home = {executable.parent}\ninclude-system-site-packages = false\nversion = {version}\n",
    )
    # A derived image copies its plugins there: the path has no version of Python in it.
    image.write(f"{packages}/plugins.pth", f"{environment}/plugins\n")
    image.folder(environment / "plugins")
    pins = sorted(
        f"{found['Name']}=={found['Version']}\n"
        for found in map(_headers, packages.glob("*.dist-info/METADATA"))
        if found["Name"] != "devpi-sidecar"
    )
    image.write(f"{environment}/constraints.txt", "".join(pins))


def site_packages(environment: Path) -> Path:
    """The folder of the packages in a virtual environment of this Python."""
    scheme = sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)})
    return Path(scheme)


def _through_entrypoint(environment: Path, tool: str) -> str:
    return (
        f"#!{environment}/bin/python3\nimport os\nimport sys\n\n"
        f'command = [sys.executable, "{environment}/entrypoint.py", "{tool}", *sys.argv[1:]]\n'
        "os.execv(sys.executable, command)\n"
    )


def _headers(metadata: Path) -> dict[str, str]:
    head = metadata.read_text(encoding="utf-8").partition("\n\n")[0]
    return {name: value for name, _, value in (line.partition(": ") for line in head.splitlines())}


def compile_standard_library(image: RootFilesystem) -> None:
    """Bytecode in the place of the sources: 10 MB less, and no reader but a traceback misses them."""
    sources = [path for path in image.files(sysconfig.get_path("stdlib")) if path.suffix == ".py"]
    _compile(image, [(source, source.with_suffix(".pyc")) for source in sources])
    for source in sources:
        source.unlink()
    for link in sorted((image / sysconfig.get_path("stdlib")).rglob("*.py")):  # to sources that are no more
        link.with_suffix(".pyc").symlink_to(link.readlink().with_suffix(".pyc"))
        link.unlink()


def compile_environment(image: RootFilesystem, environment: Path) -> None:
    """Bytecode beside the sources: pyramid and devpi read source lines."""
    entrypoint = image / environment / "entrypoint.py"  # a script: Python looks for no bytecode of it
    sources = [
        path
        for path in image.files(environment)
        if path.suffix == ".py" and path != entrypoint and not trimmed.BYTECODE.fullmatch(str(path))
    ]
    _compile(image, [(path, Path(importlib.util.cache_from_source(str(path)))) for path in sources])


def _compile(image: RootFilesystem, pairs: list[tuple[Path, Path]]) -> None:
    """Compile, each source to its target. Python never looks whether the source is newer: nobody may write there.

    One process after another would take 20 s; what a process compiles, and in which order, decides about some bits of
    the result, so each of them has its fixed share.
    """
    shares = 4
    children = []
    for share in range(shares):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                for source, target in pairs[share::shares]:
                    py_compile.compile(
                        str(source),
                        str(target),
                        "/" + str(source.relative_to(image.root)),
                        doraise=True,
                        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                    )
                code = 0
            except py_compile.PyCompileError as error:
                sys.stderr.write(f"{error}\n")
            finally:
                os._exit(code)
        children.append(pid)
    for pid in children:
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise SystemExit("the bytecode could not be compiled")


# --- libraries ------------------------------------------------------------------------------------------------------


def copy_libraries(image: RootFilesystem) -> None:
    """Shared libraries: those that are linked, and those that are opened late; everything stripped of symbols."""
    programs = [path for path in image.files() if _is_elf(path)]
    needed = {library for program in programs for library in _linked(program)}
    places = {library.parent for library in needed}
    for name in LIBRARIES_OPENED_LATE:
        found = sorted(place / name for place in places if (place / name).exists())
        if not found:
            raise SystemExit(f"{name} is nowhere beside the other libraries: {sorted(map(str, places))}")
        needed.add(found[0])
        needed.update(_linked(found[0]))
    libraries = [image.copy(library) for library in sorted(needed)]
    for path in {*programs, *libraries}:
        subprocess.run(["strip", "--strip-unneeded", path], check=True)
    image.folder(Path("/etc"))
    for path in sorted([Path("/etc/ld.so.conf"), *Path("/etc/ld.so.conf.d").glob("*.conf")]):
        image.copy(path)
    subprocess.run(["ldconfig", "-r", image.root], check=True)  # /usr/local/lib, which some Pythons use
    shutil.rmtree(image / "/var/cache", ignore_errors=True)


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _linked(program: Path) -> set[Path]:
    """The libraries that the loader finds for a program, the loader included."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    if missing := re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE):
        raise SystemExit(f"{program} needs {', '.join(missing)}")
    return {Path(path) for path in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", done.stdout, re.MULTILINE)}


# --- the rest of a system -------------------------------------------------------------------------------------------


def write_system_files(image: RootFilesystem, uid: int, gid: int) -> None:
    """What a C library or a scanner looks for."""
    users = {0: "root:x:0:0:root:/tmp:/usr/sbin/nologin", uid: f"devpi:x:{uid}:{gid}:devpi:/tmp:/usr/sbin/nologin"}
    image.write("/etc/passwd", "".join(f"{line}\n" for line in users.values()))
    groups = {0: "root:x:0:", gid: f"devpi:x:{gid}:"} if gid else {0: "root:x:0:"}
    image.write("/etc/group", "".join(f"{line}\n" for line in groups.values()))
    image.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    image.copy(Path("/etc/os-release"))


def write_certificates(image: RootFilesystem) -> None:
    """Mozilla's certificates as Debian packs them. What a machine has added for itself lies elsewhere and stays out."""
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    certificates = sorted(Path("/usr/share/ca-certificates/mozilla").glob("*.crt"))
    if not certificates:
        raise SystemExit("no certificates are installed: ca-certificates is missing")
    image.write(str(bundle), "".join(path.read_text() for path in certificates))
    image.origins.update(certificates)
    expected = Path(ssl.get_default_verify_paths().openssl_cafile)
    image.folder(expected.parent)
    (image / expected).symlink_to(bundle)
    for own in sorted(image.root.rglob("certifi/cacert.pem")):  # one bundle for all, as Debian does it
        own.unlink()
        own.symlink_to(bundle)


def describe_packages(image: RootFilesystem) -> None:
    """The Debian packages that something was taken from, where scanners look (as distroless images have it), and
    their copyright files, where the build stage has them.
    """
    names = {str(origin) for origin in image.origins}
    names |= {name.removeprefix("/usr") for name in names}  # as dpkg knew them before /lib became a link
    # ends with code 1 for those that belong to none, as the official images' Python does
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


def make_writable_folders(image: RootFilesystem, uid: int) -> None:
    """The folders that the server writes to. Group 0 may do what the owner may: OpenShift and the like run the image
    with any uid, but in that group. A new named volume takes its owner and mode from the folder here. /mnt/devpi is
    where the older image's README had DEVPI_SERVERDIR.
    """
    state = [(path, uid, 0o770) for path in ("/var/lib/devpi", "/mnt/devpi")]
    for path, owner, mode in [*state, ("/devpi-init.d", uid, 0o775), ("/tmp", 0, 0o1777)]:  # noqa: S108
        folder = image.folder(Path(path))
        os.chown(folder, owner, 0)
        folder.chmod(mode)
    for folder in [image.root, *image.root.rglob("*")]:  # of those that got entries just now
        if folder.is_dir() and not folder.is_symlink():
            os.utime(folder, (EPOCH, EPOCH))


def _walk(top: Path) -> Iterator[Path]:
    """All files below a folder, links to files included, in an order that is always the same."""
    for folder, folders, files in os.walk(top):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(files))


if __name__ == "__main__":
    sys.exit(main())
