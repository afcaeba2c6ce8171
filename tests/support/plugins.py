"""Plugins of devpi-server that several tests install."""

from __future__ import annotations

from pathlib import Path

from testbed.plugins import installed_plugin


def plugin_with_metrics(folder: Path) -> dict[str, str]:
    """An environment with a plugin that has metrics, some with the names of devpi-web's."""
    return installed_plugin(
        folder,
        "fake_web",
        "from pluggy import HookimplMarker\n"
        "@HookimplMarker('devpiserver')\n"
        "def devpiserver_metrics(request):\n"
        "    return [('devpi_web_whoosh_index_queue_size', 'gauge', 3), ('<script>alert(1)', 'gauge', 7),\n"
        "            ('devpi_sidecar_ready', 'gauge', 99), ('x' * 10000, 'counter', 1)]\n",
    )
