"""devpi's SQLite storages with connections of our own: devpi finds them by its storage hook, under their own names."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from devpi_server.config import hookimpl
from devpi_server.keyfs_sqlite import BaseStorage

if TYPE_CHECKING:
    from pluggy import PluginManager

Backends = list[dict[str, Any]]


class _Connections:
    """A devpi plugin that has every SQLite storage in a class of ours, whoever brings it."""

    def __init__(self, connections: type[BaseStorage]) -> None:
        self._connections = connections
        self._made: dict[type[BaseStorage], type[BaseStorage]] = {}

    @hookimpl(wrapper=True)
    def devpiserver_storage_backend(self) -> Generator[None, Backends, Backends]:
        """devpi's hook: around all that bring a storage."""
        found = yield
        return [each | {"storage": self._of(each["storage"])} for each in found]

    def _of(self, storage: type) -> type:
        if not issubclass(storage, BaseStorage):
            return storage
        if storage not in self._made:
            self._made[storage] = type(storage.__name__, (self._connections, storage), {})
        return self._made[storage]


def connect_by(connections: type[BaseStorage], plugins: PluginManager) -> None:
    """From now on, have devpi's SQLite storages open their connections as `connections` does."""
    plugins.register(_Connections(connections))
