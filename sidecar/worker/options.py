"""The options of devpi's programs, and what no program reads in the environment and the configuration file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devpi_server import config
from devpi_server.config import ArgumentDefaultGetter, MyArgumentParser, get_action_long_option_string, get_parser

from sidecar.core import parsers, variables
from sidecar.core.lifecycle import Notice
from sidecar.core.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from pluggy import PluginManager

_MANY = 20
"""Unknown names that are reported; the rest is counted."""
_PASSWORDS = {"root-passwd", "root-passwd-hash"}
_NEVER_READ = {
    "configfile": "pass --configfile to devpi-server",
    "help": "pass --help to devpi-server",
    "passwd": "stop the server, and run devpi-passwd",
}
"""Options of which devpi ignores the variable and the line in its configuration file, with the hint."""


class Options:
    """All options of devpi-server, its plugins, devpi-init, devpi-import and devpi-export.

    All programs share one configuration file, but each of devpi's parsers knows only its own program's options, and
    warns of all others in it. `take_over` stops that; `notices` reports what no program reads.
    """

    def __init__(self, plugins: PluginManager) -> None:
        tools = MyArgumentParser(add_help=False, pluginmanager=plugins)
        tools.add_init_options()
        tools.add_import_options()
        tools.add_export_options()
        tools.add_hard_links_option()
        self._known = _long_options(get_parser(plugins)) | _long_options(tools)
        self._file: Path | None = None
        self._provided: dict[str, Any] = {}
        self._environ = dict(os.environ)

    def take_over(self, *, quiet: bool = False) -> None:
        """Stop devpi's parsers from warning of other programs' options; `quiet`: of any option.

        They also ignore `configfile` in the environment and in the file from now on: devpi does not load that file, but
        takes its name for the option's value, which the tools would get.
        """
        load, known = config.load_config_file, self._known

        def load_config_file(name: str | None) -> dict[str, Any]:
            self._provided = load(name)
            self._file = Path(name) if name else None
            return {option: value for option, value in self._provided.items() if option != "configfile"}

        class Getter(ArgumentDefaultGetter):
            def __init__(self, *, config_options: dict[str, Any], environ: MutableMapping[str, Any]) -> None:
                super().__init__(config_options=config_options, environ=environ)
                self.used_config_options = set(config_options) if quiet else set(known)

        os.environ.pop(_variable("configfile"), None)
        config.load_config_file = load_config_file
        config.ArgumentDefaultGetter = Getter  # type: ignore[misc]

    def root_password(self) -> str | None:
        """Return `root-passwd` of the configuration file that was read last; None if it is missing or empty.

        Raises ValueError, as `core.parsers` does, if it is invalid; the message never contains it.
        """
        password = self._provided.get("root-passwd")
        if not password:
            return None
        if not isinstance(password, str):
            raise ValueError("is not a string", "write it as one line of text")
        parsers.password(password)
        return password

    def notices(self, settings: Iterable[str], unknown: Iterable[str]) -> list[Notice]:
        """Return what has no effect in the environment and in the configuration file read last, without values.

        `settings`: the names of the sidecar's own variables. `unknown`: variables with the same prefixes that it does
        not have.
        """
        readable = self._known - _NEVER_READ.keys()
        known = {_variable(option) for option in readable}
        strange = [*unknown, *variables.devpi_servers(self._environ, known)]
        suggested = {*settings, *(known - {_variable(option) for option in _PASSWORDS})}
        found = [_unknown_variable(name, suggested) for name in strange[:_MANY]]
        if (more := len(strange) - _MANY) > 0:
            found.append(Notice("variable", f"{more} more unknown variables", "rename or remove them"))
        return found + self._of_the_file(readable)

    def _of_the_file(self, readable: set[str]) -> list[Notice]:
        if self._file is None:
            return []
        where = f"the configuration file {self._file}"
        if not self._provided and _has_no_section(self._file):
            reason = f"{where} has no section devpi-server, so all of it is ignored"
            return [Notice("configuration", reason, "indent the options below a line `devpi-server:`")]
        strange = sorted(self._provided.keys() - readable)
        found = [_unknown_option(name, readable, where) for name in strange[:_MANY]]
        if (more := len(strange) - _MANY) > 0:
            found.append(Notice("configuration", f"{more} more unknown options in {where}", "remove them"))
        if self._provided.get("root-passwd-hash"):
            reason = f"root-passwd-hash in {where} has no effect"
            found.append(Notice("configuration", reason, "use root-passwd there, or set DEVPI_PASSWORD_FILE"))
        return found


def _long_options(parser: argparse.ArgumentParser) -> set[str]:
    options = map(get_action_long_option_string, parser._actions)
    return {option.removeprefix("--") for option in options if option}


def _variable(option: str) -> str:
    return f"DEVPISERVER_{option.replace('-', '_').upper()}"


def _unknown_variable(name: str, suggested: set[str]) -> Notice:
    shown = printable(name, 100)
    option = name.upper().removeprefix("DEVPISERVER_").lower()
    if name.startswith("DEVPISERVER_") and option in _NEVER_READ:
        return Notice("variable", f"devpi-server ignores the variable {shown}", _NEVER_READ[option])
    return Notice("variable", f"unknown variable {shown}", _advice(variables.nearest(name, suggested)))


def _unknown_option(name: str, readable: set[str], where: str) -> Notice:
    shown = printable(name, 100)
    if name in _NEVER_READ:
        return Notice("configuration", f"devpi-server ignores {shown} in {where}", _NEVER_READ[name])
    near = variables.nearest(name, {option.upper() for option in readable})
    advice = _advice(None if near is None else near.lower())
    return Notice("configuration", f"unknown option {shown} in {where}", advice)


def _advice(near: str | None) -> str:
    return "remove it, or fix its name" if near is None else f"did you mean {near}?"


def _has_no_section(file: Path) -> bool:
    """Whether devpi reads nothing from the file, although it isn't empty."""
    import strictyaml

    content = strictyaml.load(file.read_bytes().decode())
    return bool(content.data) and (content.is_scalar() or "devpi-server" not in content)
