"""Change how devpi's SQLite storages connect, by devpi's storage hook; the storages keep their names."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from devpi_server.config import hookimpl
from devpi_server.keyfs_sqlite import BaseStorage

if TYPE_CHECKING:
    from pluggy import PluginManager

Backends = list[dict[str, Any]]


class _Connections:
    """A devpi plugin that puts `connections` before every SQLite storage's class, also before other plugins'."""

    def __init__(self, connections: type[BaseStorage]) -> None:
        self._connections = connections
        self._made: dict[type[BaseStorage], type[BaseStorage]] = {}

    @hookimpl(wrapper=True)
    def devpiserver_storage_backend(self) -> Generator[None, Backends, Backends]:
        """Wrap the hook's other implementations, which return storages."""
        found = yield
        return [each | {"storage": self._of(each["storage"])} for each in found]

    def _of(self, storage: type) -> type:
        if not issubclass(storage, BaseStorage):
            return storage
        if storage not in self._made:
            self._made[storage] = type(storage.__name__, (self._connections, storage), {})
        return self._made[storage]


def connect_by(connections: type[BaseStorage], plugins: PluginManager) -> None:
    """Make devpi's SQLite storages open connections as `connections` does, from now on."""
    plugins.register(_Connections(connections))
