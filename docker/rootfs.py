"""Assemble the root file system of the image: only the files that it needs at run time. Called by the Dockerfile.

    python3 rootfs.py --environment /opt/devpi --uid 1000 --gid 1000 /rootfs

Runs as root in a build stage, with the image's interpreter. It copies the virtual environment, its interpreter, the
standard library, the shared libraries that these need, certificates, and the few files that a C library reads. It gets
all paths from Python, so it works with Debian's Python and with that of the official images. The result depends only on
the input, not on the clock or the order of a directory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import sys
from pathlib import Path

import python_files
import system_files

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH") or 946684800)
"""Modification time of all files, in seconds; 2000-01-01 by default, because zip files support nothing before 1980."""


def main() -> int:
    """Assemble it. Any failure ends the build with a traceback."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--environment", type=Path, required=True, help="the virtual environment to copy")
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--gid", type=int, required=True)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()

    image = RootFilesystem(options.target)
    executable = Path(sys.executable).resolve()
    image.copy(executable)
    python_files.copy_standard_library(image)
    python_files.copy_environment(image, options.environment, executable)
    for program in ("tini", "env"):
        image.copy(Path("/usr/bin") / program)
    system_files.copy_libraries(image)
    system_files.write_users(image, options.uid, options.gid)
    system_files.write_certificates(image)
    system_files.describe_packages(image)
    python_files.compile_standard_library(image)
    python_files.compile_environment(image, options.environment)
    image.normalise()
    make_writable_folders(image, options.uid)
    return 0


class RootFilesystem:
    """The tree that becomes the image's `/`. Its methods take absolute paths, as in the image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.origins: set[Path] = set()
        """Real paths of the copied files in the build stage."""
        root.mkdir(parents=True)

    def __truediv__(self, path: Path | str) -> Path:
        """Return the current path of the image's `path`."""
        return self.root / str(path).lstrip("/")

    def folder(self, path: Path) -> Path:
        """Make a folder and its parents. Symbolic links among them (`/lib` → `usr/lib`) are copied."""
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
        """Copy one file to `to`, by default to the same path; then a link is copied with its target."""
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
        """Return all regular files below a folder, sorted."""
        return sorted(path for path in (self / below).rglob("*") if path.is_file() and not path.is_symlink())

    def normalise(self) -> None:
        """Set the same owner and time everywhere, and modes that only root may write to, without set-uid."""
        for path in [self.root, *sorted(self.root.rglob("*"))]:
            os.chown(path, 0, 0, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def make_writable_folders(image: RootFilesystem, uid: int) -> None:
    """Make the folders that the server writes to.

    Group 0 has the owner's rights, because OpenShift runs the image with any uid in that group. A new named volume
    inherits owner and mode from its folder. /mnt/devpi is the DEVPI_SERVERDIR in the older image's README.
    """
    state = [(path, uid, 0o770) for path in ("/var/lib/devpi", "/mnt/devpi")]
    for path, owner, mode in [*state, ("/devpi-init.d", uid, 0o775), ("/tmp", 0, 0o1777)]:  # noqa: S108
        folder = image.folder(Path(path))
        os.chown(folder, owner, 0)
        folder.chmod(mode)
    for folder in [image.root, *image.root.rglob("*")]:  # the new entries changed their times
        if folder.is_dir() and not folder.is_symlink():
            os.utime(folder, (EPOCH, EPOCH))


if __name__ == "__main__":
    sys.exit(main())
