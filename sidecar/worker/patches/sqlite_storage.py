"""devpi's SQLite storages with connections of our own: devpi finds them by its storage hook, under their own names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from devpi_server import keyfs_sqlite, keyfs_sqlite_fs
from devpi_server.config import hookimpl
from devpi_server.keyfs_sqlite import BaseStorage

if TYPE_CHECKING:
    from pluggy import PluginManager

Backend = Callable[[dict[str, str] | None], dict[str, Any]]


class _Plugin:
    """A devpi plugin that has one of devpi's own storages, in another class."""

    def __init__(self, devpis: Backend, storage: type[BaseStorage]) -> None:
        self._devpis = devpis
        self._storage = storage

    @hookimpl(tryfirst=True)
    def devpiserver_storage_backend(self, settings: dict[str, str] | None) -> dict[str, Any]:
        """devpi's hook: of several with one name it takes the first; `hidden`, for its help lists devpi's own."""
        return self._devpis(settings) | {"storage": self._storage, "hidden": True}


def connect_by(connections: type[BaseStorage], plugins: PluginManager) -> None:
    """From now on, have devpi's SQLite storages open their connections as `connections` does."""
    for module in (keyfs_sqlite_fs, keyfs_sqlite):
        storage = type("Storage", (connections, module.Storage), {})
        plugins.register(_Plugin(module.devpiserver_storage_backend, storage))
