"""Plugins of devpi-server for tests and bench."""

from __future__ import annotations

from pathlib import Path


def installed_plugin(folder: Path, module: str, source: str, attribute: str = "") -> dict[str, str]:
    """Install a module with this source in `folder` as a plugin (or its attribute); return its environment."""
    name = module.replace("_", "-")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    target = f"{module}:{attribute}" if attribute else module
    (info / "entry_points.txt").write_text(f"[devpi_server]\n{name} = {target}\n")
    return {"PYTHONPATH": str(folder)}
