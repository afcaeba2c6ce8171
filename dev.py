#!/usr/bin/env python3
"""Run and test this project on a machine that has nothing but Python.

  python3 dev.py run [devpi-server flags]   devpi-server and the sidecar on ./devpi-data
  python3 dev.py test                       linters and the quick tests: about five minutes
  python3 dev.py test ARGUMENTS             as `just test ARGUMENTS`

Both install uv and just from requirements-tools.lock into .tools first. All other commands: the justfile.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11, 2)
TOOLS = ROOT / ".tools"
LISTEN_FLAGS = ("host", "listen", "unix-socket")


def main(arguments: list[str]) -> NoReturn:
    """Become the command; exit with 2 for a wrong call, with another code than 0 if the set-up fails."""
    if arguments[:1] not in (["run"], ["test"]):
        asked = arguments in (["-h"], ["--help"])
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    just = [str(install_tools()), "--justfile", str(ROOT / "justfile")]
    environ = os.environ | {"UV_PYTHON": sys.executable} | index()
    if arguments[0] == "test":
        os.execve(just[0], [*just, *arguments], environ)  # noqa: S606
    if code := subprocess.run([*just, "environment"], check=False, env=environ).returncode:
        sys.exit(code)
    python = str(ROOT / ".venv" / "bin" / "python")
    os.execv(python, [python, str(ROOT / "entrypoint.py"), *local(arguments[1:])])  # noqa: S606


def local(flags: list[str]) -> list[str]:
    """Return the arguments of `entrypoint.py` for a server that only this machine reaches, unless the flags differ."""
    if not given(["serverdir"], flags):
        os.environ.setdefault("DEVPI_SERVERDIR", str(ROOT / "devpi-data"))
    os.environ.setdefault("DEVPI_INIT_DIR", str(ROOT / "devpi-init.d"))
    os.environ.setdefault("SIDECAR_HOST", "127.0.0.1")
    serves = not flags or flags[0].startswith("-") or flags[0] == "devpi-server"
    return [*flags, "--host", "127.0.0.1"] if serves and not given(LISTEN_FLAGS, flags) else flags


def given(names: list[str] | tuple[str, ...], flags: list[str]) -> bool:
    """Whether a flag (devpi-server accepts abbreviations) or its variable sets one of these options."""
    written = [flag.partition("=")[0] for flag in flags if flag.startswith("--") and flag != "--"]
    return any(f"--{name}".startswith(flag) for name in names for flag in written) or any(
        os.environ.get(f"DEVPISERVER_{name.upper().replace('-', '_')}") for name in names
    )


def install_tools() -> Path:
    """Install uv and just unless this lock file's are there; return just. Concurrent calls install once."""
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        sys.exit("dev.py: this Python lacks venv or ensurepip: apt-get install python3-venv")
    lock, stamp = ROOT / "requirements-tools.lock", TOOLS / "stamp"
    wanted = f"{sys.version}\n{TOOLS}\n{lock.read_text()}"
    with (ROOT / ".tools.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            print("dev.py: installing uv and just into .tools", file=sys.stderr, flush=True)
            pip = [str(TOOLS / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(TOOLS)],
                [*pip, "--only-binary", ":all:", "--require-hashes", "--requirement", str(lock)],
            ):
                if code := subprocess.run(command, check=False, stdout=sys.stderr).returncode:
                    sys.exit(f"dev.py: {shlex.join(command)} failed with exit code {code}")
            stamp.write_text(wanted)
    return TOOLS / "bin" / "just"


def index() -> dict[str, str]:
    """Return the package index that pip is configured with as a variable for uv, which does not read pip's files."""
    if {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & os.environ.keys():
        return {}
    command = [str(TOOLS / "bin" / "python"), "-m", "pip", "config", "list"]
    found = re.search(r"\.index-url='(.+)'$", subprocess.check_output(command, text=True), re.MULTILINE)
    return {"UV_DEFAULT_INDEX": found[1]} if found else {}


if __name__ == "__main__":
    if sys.version_info < OLDEST_PYTHON:
        sys.exit("dev.py: Python {}.{}.{} or newer is required".format(*OLDEST_PYTHON))
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
