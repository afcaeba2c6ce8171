"""The options of devpi's programs, and what the environment and the configuration file say that no program reads."""

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
"""Unknown names that are reported one by one; the rest is counted."""
_PASSWORDS = {"root-passwd", "root-passwd-hash"}
_NEVER_READ = {
    "configfile": "give devpi-server the flag --configfile",
    "help": "give devpi-server the flag --help",
    "passwd": "run devpi-passwd with the server stopped",
}
"""Options of which devpi ignores the variable and the line in its configuration file, and what to use instead."""


class Options:
    """The options that devpi-server, its plugins, devpi-init, devpi-import and devpi-export have together.

    Each of devpi's parsers knows its own program's options alone, and warns of all others in the configuration file,
    which all programs share. From `take_over` on none of them warns: `notices` does, once.
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
        """Have devpi's parsers not warn of what another program knows; `quiet`: nor of anything else.

        From then on they pass over a --configfile that is given in the wrong place. devpi has read its file by then,
        but would give that name to the tools.
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
        """`root-passwd` of the configuration file that was read last; None: there is none, or an empty one.

        Raises ValueError, as `core.parsers` does, for one that can't be used; it is never part of the message.
        """
        given = self._provided.get("root-passwd")
        if not given:
            return None
        if not isinstance(given, str):
            raise ValueError("is not a text", "write it as one line of text")
        parsers.password(given)
        return given

    def notices(self, settings: Iterable[str], unknown: Iterable[str]) -> list[Notice]:
        """What has no effect, of the environment and of the configuration file that was read last. No value is shown.

        `settings`: the names of the sidecar's own variables. `unknown`: variables that begin as these do, and are none.
        """
        readable = self._known - _NEVER_READ.keys()
        known = {_variable(option) for option in readable}
        strange = [*unknown, *variables.devpi_servers(self._environ, known)]
        suggested = {*settings, *(known - {_variable(option) for option in _PASSWORDS})}
        found = [_unknown_variable(name, suggested) for name in strange[:_MANY]]
        if (more := len(strange) - _MANY) > 0:
            found.append(Notice("variable", f"{more} more variables are not known", "rename or remove them"))
        return found + self._of_the_file(readable)

    def _of_the_file(self, readable: set[str]) -> list[Notice]:
        if self._file is None:
            return []
        where = f"the configuration file {self._file}"
        if not self._provided and _has_no_section(self._file):
            reason = f"{where} has no section devpi-server, so nothing in it has an effect"
            return [Notice("configuration", reason, "indent the options below a line `devpi-server:`")]
        strange = sorted(self._provided.keys() - readable)
        found = [_unknown_option(name, readable, where) for name in strange[:_MANY]]
        if (more := len(strange) - _MANY) > 0:
            found.append(Notice("configuration", f"{more} more options in {where} are not known", "remove them"))
        if self._provided.get("root-passwd-hash"):
            reason = f"root-passwd-hash in {where} has no effect"
            found.append(Notice("configuration", reason, "write root-passwd there, or set DEVPI_PASSWORD_FILE"))
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
    return Notice("variable", f"the variable {shown} is not known here", _advice(variables.nearest(name, suggested)))


def _unknown_option(name: str, readable: set[str], where: str) -> Notice:
    shown = printable(name, 100)
    if name in _NEVER_READ:
        return Notice("configuration", f"devpi-server ignores {shown} in {where}", _NEVER_READ[name])
    near = variables.nearest(name, {option.upper() for option in readable})
    advice = _advice(None if near is None else near.lower())
    return Notice("configuration", f"the option {shown} in {where} is not known", advice)


def _advice(near: str | None) -> str:
    return "remove it, or correct its name" if near is None else f"did you mean {near}?"


def _has_no_section(file: Path) -> bool:
    """Whether devpi has found nothing to read in a file that holds something."""
    import strictyaml

    content = strictyaml.load(file.read_bytes().decode())
    return bool(content.data) and (content.is_scalar() or "devpi-server" not in content)
