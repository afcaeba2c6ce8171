#!/usr/bin/env python3
"""Set up and do the everyday things of this project, with nothing but Python's standard library.

  python3 dev.py run [devpi-server flags]   devpi-server and sidecar on ./devpi-data
  python3 dev.py test                       linters, and the tests that are quick anywhere: about five minutes
  python3 dev.py test --all                 these, what takes long, what measures (or a part: --slow, --alone)
  python3 dev.py test ARGUMENTS             pytest alone, with its arguments
  python3 dev.py lint                       ruff, mypy, import-linter, hadolint
  python3 dev.py bench [arguments]          the measurements in bench/
  python3 dev.py lock [uv arguments]        write requirements*.lock anew (--upgrade: newer versions)

`run`, and what the tests start, lives in .venv and has what the image has; everything else lives in .venv-dev. Both
are made when first needed, and made again when their lock file or the Python changes.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11, 2)
"""Debian 12's; what is older is tested nowhere."""
RUN = ".venv", "requirements.lock"
DEVELOP = ".venv-dev", "requirements-dev.lock"

AT_ONCE = "--numprocesses", str((os.cpu_count() or 1) + 1), "--dist", "loadfile"
"""Most tests wait for processes of their own."""
ELSEWHERE = "not image and not kubernetes and not chaos"
"""Leaves out what needs more than this virtual environment, or many minutes."""
QUICK = *AT_ONCE, "-m", f"{ELSEWHERE} and not slow and not alone"
SLOW = *AT_ONCE, "-m", f"{ELSEWHERE} and slow and not alone"
ALONE = "-m", f"{ELSEWHERE} and alone"
"""These measure: nothing else may run meanwhile."""

LOCKS = {
    "requirements.lock": (),
    "requirements-web.lock": ("--extra", "web", "--constraint", "requirements.lock"),
    "requirements-dev.lock": ("--group", "dev", "--constraint", "requirements.lock"),
}
"""Lock file → what it holds beyond the dependencies. All agree on the versions in the first."""

LISTEN_FLAGS = {
    "--host": "DEVPISERVER_HOST",
    "--listen": "DEVPISERVER_LISTEN",
    "--unix-socket": "DEVPISERVER_UNIX_SOCKET",
}
SERVERDIR_FLAGS = {"--serverdir": "DEVPISERVER_SERVERDIR"}
"""devpi-server's flag → the variable that says the same."""


class SetupError(Exception):
    """The virtual environment can't be made; the message says why and what to do."""


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code, 2 for a wrong call and 1 where the set-up failed."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        asked = arguments[:1] in (["-h"], ["--help"], ["help"])
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        return command(list(arguments[1:]))
    except SetupError as error:
        report(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


def run(flags: Sequence[str]) -> int:
    """Become `entrypoint.py` on a local directory, for this machine alone unless told otherwise."""
    python = venv(*RUN)
    environ = dict(os.environ)
    if not says(SERVERDIR_FLAGS, flags, environ):
        environ.setdefault("DEVPI_SERVERDIR", str(ROOT / "devpi-data"))
    environ.setdefault("DEVPI_INIT_DIR", str(ROOT / "devpi-init.d"))
    environ.setdefault("SIDECAR_HOST", "127.0.0.1")
    serves = not flags or flags[0].startswith("-") or flags[0] == "devpi-server"
    local = ["--host", "127.0.0.1"] if serves and not says(LISTEN_FLAGS, flags, environ) else []
    sys.stdout.flush()
    os.execve(python, [str(python), str(ROOT / "entrypoint.py"), *flags, *local], environ)  # noqa: S606


def test(arguments: Sequence[str]) -> int:
    """All checks, then the tests, whose closing line comes last; the first failure's exit code.

    What the tests start is run by the virtual environment that `run` has: what users have, without what develops.
    """
    os.environ["TESTED_PYTHON"] = str(venv(*RUN))
    pytest = functools.partial(call, venv(*DEVELOP), "-m", "pytest")
    match arguments:
        case []:
            codes = [lint([]), pytest(*QUICK)]
        case ["--all"]:
            codes = [lint([]), pytest(*QUICK), pytest(*SLOW), pytest(*ALONE)]
        case ["--slow"]:
            codes = [pytest(*SLOW)]
        case ["--alone"]:
            codes = [pytest(*ALONE)]
        case _:
            codes = [pytest(*arguments)]
    return next(filter(None, codes), 0)


def lint(arguments: Sequence[str]) -> int:
    """Every check runs, also after one failed; the first failure's exit code."""
    if arguments:
        raise SetupError(f"lint takes no arguments: {shlex.join(arguments)}")
    tools = venv(*DEVELOP).parent
    checks = (
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("lint-imports",),
        ("hadolint", "Dockerfile"),
    )
    codes = []
    with ThreadPoolExecutor() as pool:  # at once, and shown in order: mypy takes as long as all others together
        for check, done in zip(
            checks, pool.map(lambda check: quietly(tools / check[0], *check[1:]), checks), strict=True
        ):
            print(f"$ {shlex.join(check)}\n{done.stdout}", end="", file=sys.stderr, flush=True)
            codes.append(done.returncode if done.returncode >= 0 else 128 - done.returncode)
    return next(filter(None, codes), 0)


def bench(arguments: Sequence[str]) -> int:
    """The package `bench`, with its own arguments."""
    return call(venv(*DEVELOP), "-m", "bench", *arguments)


def lock(arguments: Sequence[str]) -> int:
    """Resolve pyproject.toml into all lock files, for every supported Python and platform."""
    uv = venv(*DEVELOP).parent / "uv"
    for name, extent in LOCKS.items():
        code = call(
            uv, "pip", "compile", "pyproject.toml", *extent, "--output-file", name, "--quiet",
            "--universal", "--python-version", ".".join(map(str, OLDEST_PYTHON)), "--generate-hashes",
            "--custom-compile-command", "python3 dev.py lock", *arguments,
        )  # fmt: skip
        if code:
            return code
    return 0


COMMANDS = {"run": run, "test": test, "lint": lint, "bench": bench, "lock": lock}


def says(names: Mapping[str, str], flags: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether one of the flags, an abbreviation of it (devpi takes them) or its variable is given."""
    given = [flag.partition("=")[0] for flag in flags if flag.startswith("--") and len(flag) > len("--")]
    return any(name.startswith(flag) for name in names for flag in given) or any(
        environ.get(variable) for variable in names.values()
    )


def call(program: Path, *arguments: str) -> int:
    """Run a program in the project's folder, its command line shown; returns its exit code."""
    print(f"$ {shlex.join([program.name, *arguments])}", file=sys.stderr, flush=True)
    try:
        code = subprocess.run([program, *arguments], cwd=ROOT, check=False).returncode
    except FileNotFoundError:
        raise SetupError(f"{program} is missing: remove {program.parent.parent} and try again") from None
    return code if code >= 0 else 128 - code


def quietly(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the project's folder, and keep what it prints."""
    try:
        return subprocess.run(
            [program, *arguments], cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except FileNotFoundError:
        raise SetupError(f"{program} is missing: remove {program.parent.parent} and try again") from None


def venv(name: str, lock_file: str) -> Path:
    """The Python of the virtual environment `name`, which holds exactly `lock_file` and this project.

    Raises `SetupError`. Two calls at once make it once.
    """
    directory = ROOT / name
    stamp = directory / ".dev.py-stamp"
    wanted = [digest(ROOT / lock_file), digest(ROOT / "pyproject.toml")]
    if stamped(stamp) != wanted:
        with locked(ROOT / f"{name}.lock"):
            found = stamped(stamp)  # while we waited, another may have made it
            if found[:1] != wanted[:1]:
                make_venv(directory, ROOT / lock_file)
            if found != wanted:
                install_project(directory)
                stamp.write_text("\n".join(wanted))
    return directory / "bin" / "python"


def stamped(stamp: Path) -> list[str]:
    """What a finished virtual environment was made from: lock file and project; else nothing."""
    try:
        return stamp.read_text().splitlines()
    except FileNotFoundError:
        return []


def digest(file: Path) -> str:
    """Stands for a file's content, this interpreter and this place: a virtual environment can't move."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise SetupError(f"{file.name} is missing in {ROOT}: get the whole project") from None
    return hashlib.sha256(f"{sys.version}\n{sys.base_prefix}\n{ROOT}\n".encode() + content).hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; it ends with this process at the latest."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_venv(directory: Path, lock_file: Path) -> None:
    """Make the virtual environment anew, so that nothing stays in it that the lock file does not name."""
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        version = "{}.{}".format(*sys.version_info)
        raise SetupError(f"this Python lacks venv or ensurepip: apt-get install python{version}-venv")
    report(f"making {directory.name} from {lock_file.name}: it takes about a minute")
    setup(sys.executable, "-m", "venv", "--clear", str(directory))
    # what only develops compiles what it imports, when it does; a server is to start fast from the first time on
    later = ("--no-compile",) if directory.name == DEVELOP[0] else ()
    pip_install(directory, *later, "--only-binary", ":all:", "--require-hashes", "--requirement", str(lock_file))


def install_project(directory: Path) -> None:
    """Make `sidecar` importable and a command; setuptools, which builds it, came with the lock file."""
    pip_install(directory, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def pip_install(directory: Path, *arguments: str) -> None:
    """Run the virtual environment's own pip, and report how far it is. Raises `SetupError`."""
    python = str(directory / "bin" / "python")
    options = "--disable-pip-version-check", "install", "--progress-bar", "off"
    setup(python, "-m", "pip", *options, *arguments, progress=directory.name)


def setup(*command: str, progress: str | None = None) -> None:
    """Run one step of the set-up, with stdout left to the command that needs it. Raises `SetupError`.

    With the name of a virtual environment in `progress`, what pip prints becomes a line every 10 packages.
    """
    output = []
    environ = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        packages = 0
        for line in process.stdout or ():
            output.append(line)
            packages += line.startswith("Collecting ")
            if progress and line.startswith("Collecting ") and packages % 10 == 0:
                report(f"{progress}: {packages} packages downloaded or found in pip's cache")
            elif progress and packages and line.startswith("Installing collected packages"):
                report(f"{progress}: installing {packages} packages")
    if process.returncode:
        sys.stderr.writelines(output)
        raise SetupError(f"{shlex.join(command)} ended with {process.returncode}; its output is above")


def report(text: str) -> None:
    """A line for whoever waits; stdout is left to the command that is run afterwards."""
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(
            "dev.py: Python {}.{}.{} or newer is needed; {} is {}.{}.{}".format(
                *OLDEST_PYTHON, sys.executable, *sys.version_info[:3]
            )
        )
    sys.exit(main(sys.argv[1:]))
