"""Copy the standard library and the virtual environment into the image, and compile them."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import trimmed

if TYPE_CHECKING:
    from rootfs import RootFilesystem

THROUGH_ENTRYPOINT = (
    *("devpi-init", "devpi-import", "devpi-passwd", "devpi-fsck", "devpi-export"),
    "devpi-clear-search-index",  # devpi-web's
)
"""devpi's tools that must respect the serverdir's lock, also in `docker exec`; those that are installed."""


def copy_standard_library(image: RootFilesystem) -> None:
    """Copy the standard library without the parts that `trimmed` lists, tests, and files for embedding Python."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    embedding = sysconfig.get_config_var("LIBPL")
    for source in _walk(stdlib):
        relative = source.relative_to(stdlib)
        if (
            not trimmed.of_stdlib(relative.parts[0].removesuffix(".py"))
            and not (source.suffix == ".so" and trimmed.of_stdlib(source.name.partition(".")[0]))
            and not {"__pycache__", "tests"} & set(relative.parts)
            and not trimmed.PROMPT.fullmatch(relative.as_posix())
            and not (embedding and source.is_relative_to(embedding))
            and source.suffix in {".py", ".so", ".txt"}
        ):
            image.copy(source)


def copy_environment(image: RootFilesystem, environment: Path, executable: Path) -> None:
    """Copy the virtual environment: packages, the commands for operators, the entrypoint."""
    packages = _site_packages(environment)
    for source in _walk(packages):
        if not trimmed.of_packages(source.relative_to(packages).as_posix()):
            copied = image.copy(source)
            if source.name == "METADATA":  # drop the README in it
                head = source.read_text(encoding="utf-8").partition("\n\n")[0]
                copied.write_text(f"{head}\n", encoding="utf-8")
    _write_commands(image, environment)
    image.copy(environment / "entrypoint.py")
    for name in ("python", "python3"):  # the commands that uv writes begin with the one, our own with the other
        (image / environment / "bin" / name).symlink_to(executable)
    version = "{}.{}.{}".format(*sys.version_info[:3])
    image.write(
        f"{environment}/pyvenv.cfg",
        f"home = {executable.parent}\ninclude-system-site-packages = false\nversion = {version}\n",
    )
    # Derived images copy plugins there. The path doesn't contain Python's version.
    image.write(f"{packages}/plugins.pth", f"{environment}/plugins\n")
    image.folder(environment / "plugins")
    pins = sorted(
        f"{found['Name']}=={found['Version']}\n"
        for found in map(_headers, packages.glob("*.dist-info/METADATA"))
        if found["Name"] != "devpi-sidecar"
    )
    image.write(f"{environment}/constraints.txt", "".join(pins))


def _site_packages(environment: Path) -> Path:
    scheme = sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)})
    return Path(scheme)


def _write_commands(image: RootFilesystem, environment: Path) -> None:
    for script in sorted((environment / "bin").iterdir()):
        if trimmed.SCRIPTS_KEPT.fullmatch(script.name):
            image.copy(script)
    for tool in THROUGH_ENTRYPOINT:
        if (environment / "bin" / tool).exists():
            image.write(
                f"{environment}/bin/{tool}",
                f"#!{environment}/bin/python3\nimport os\nimport sys\n\n"
                f'command = [sys.executable, "{environment}/entrypoint.py", "{tool}", *sys.argv[1:]]\n'
                "os.execv(sys.executable, command)\n",
                0o755,
            )
    # `-I`: ignore PYTHON* variables and the current folder
    image.write(
        f"{environment}/bin/sidecar",
        f"#!{environment}/bin/python3 -I\nimport sys\n\nfrom sidecar.cli.__main__ import main\n\nsys.exit(main())\n",
        0o755,
    )


def _headers(metadata: Path) -> dict[str, str]:
    head = metadata.read_text(encoding="utf-8").partition("\n\n")[0]
    return {name: value for name, _, value in (line.partition(": ") for line in head.splitlines())}


def compile_standard_library(image: RootFilesystem) -> None:
    """Replace the sources by bytecode, which saves 10 MB; only tracebacks lack the source lines."""
    sources = [path for path in image.files(sysconfig.get_path("stdlib")) if path.suffix == ".py"]
    _compile(image, [(source, source.with_suffix(".pyc")) for source in sources])
    for source in sources:
        source.unlink()
    for link in sorted((image / sysconfig.get_path("stdlib")).rglob("*.py")):  # to removed sources
        link.with_suffix(".pyc").symlink_to(link.readlink().with_suffix(".pyc"))
        link.unlink()


def compile_environment(image: RootFilesystem, environment: Path) -> None:
    """Add bytecode to the sources, which are kept because pyramid and devpi read source lines."""
    entrypoint = image / environment / "entrypoint.py"  # Python never reads bytecode for a script
    sources = [
        path
        for path in image.files(environment)
        if path.suffix == ".py" and path != entrypoint and not trimmed.BYTECODE.fullmatch(str(path))
    ]
    _compile(image, [(path, Path(importlib.util.cache_from_source(str(path)))) for path in sources])


def _compile(image: RootFilesystem, pairs: list[tuple[Path, Path]]) -> None:
    """Compile each source to its target, unchecked at import, because nobody can change the source in the image.

    Four processes, because one takes 20 s. Each gets a fixed share: some bits of the bytecode depend on what the
    process has compiled before.
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
            raise SystemExit("compiling the bytecode failed")


def _walk(top: Path) -> Iterator[Path]:
    """Yield all files below a folder, links to files included, in a fixed order."""
    for folder, folders, files in os.walk(top):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(files))
