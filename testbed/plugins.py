"""Plugins of devpi-server that are made on the spot."""

from __future__ import annotations

from pathlib import Path


def installed_plugin(folder: Path, module: str, source: str, attribute: str = "") -> dict[str, str]:
    """An environment in which devpi-server has a plugin: a module of this source in `folder`, or an attribute of it."""
    name = module.replace("_", "-")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    target = f"{module}:{attribute}" if attribute else module
    (info / "entry_points.txt").write_text(f"[devpi_server]\n{name} = {target}\n")
    return {"PYTHONPATH": str(folder)}
