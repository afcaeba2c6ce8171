"""Reads environment variables and collects their errors. `settings` lists the variables."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sidecar.core import variables
from sidecar.core.disk_hints import hint_to_read

T = TypeVar("T")

SERVICE_LINKED = ("DEVPI_PORT", "SIDECAR_PORT", "DEVPISERVER_PORT")
"""Variables that Kubernetes sets for a Service named `devpi`, `sidecar` or `devpiserver`."""
_MOUNT = "mount the file so that uid {uid} can read it"


@dataclass(frozen=True, slots=True)
class Problem:
    """One error in the settings: the variable, what is wrong, and how to fix it."""

    variable: str
    reason: str
    hint: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.reason}; {self.hint}"


def _may_have_password(text: str) -> bool:
    """Whether it looks like a URL with credentials or a query, of any syntax."""
    return "@" in text or ("//" in text and "?" in text)


class Reader:
    """Reads variables one by one and collects their problems."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[Problem] = []
        self.names: set[str] = set()
        self.service_links = [n for n in SERVICE_LINKED if variables.is_service_address(environ.get(n, ""))]

    def problem(self, variable: str, reason: str, hint: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(variable, reason, hint))

    def text(self, name: str, default: str = "") -> str:
        """The stripped text of the variable; `default` if it is not set."""
        self.names.add(name)
        return self.environ.get(name, default).strip()

    def value(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """The parsed variable; `default` if it is not set, empty, or invalid (a problem is added)."""
        text = self.text(name)
        if not text or name in self.service_links:
            return default
        try:
            return parse(text)
        except ValueError as error:
            shown = "the value" if _may_have_password(text) else repr(text[:100])
            self.problem(name, f"{shown} is {error.args[0]}", f"use {error.args[1]}")
            return default

    def secret(self, name: str, check: Callable[[str], None]) -> str | None:
        """The secret in variable `name` or in the file at `name_FILE`; a problem never shows it."""
        self.names |= {name, f"{name}_FILE"}
        direct, file = self.environ.get(name), self.environ.get(f"{name}_FILE")
        where = name
        if direct is not None and file:
            self.problem(name, f"and {name}_FILE are both set", "keep one of them")
            return None
        if file:
            where = f"{name}_FILE"
            direct = self._read_secret_file(where, file)
        if direct is None:
            return None
        try:
            check(direct)
        except ValueError as error:
            self.problem(where, error.args[0], error.args[1])
            return None
        return direct

    def _read_secret_file(self, variable: str, name: str) -> str | None:
        try:
            path = Path(name)
            if not stat.S_ISREG(path.stat().st_mode):
                self.problem(variable, f"{name!r} is not a regular file", "set the path of a secret file")
                return None
            with path.open("rb") as file:
                content = file.read(64 * 1024)
            text = content.decode()
        except UnicodeDecodeError:
            self.problem(variable, f"the content of {name!r} is not UTF-8", "write the secret as UTF-8 text")
            return None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.problem(
                variable,
                f"can't read {name!r}: {reason}",
                hint_to_read(error, "the file", _MOUNT) if isinstance(error, OSError) else "set the path of a file",
            )
            return None
        return text.removesuffix("\n").removesuffix("\r")  # one newline, as editors and `echo` write it
