"""The devpi-server process and devpi's tools: all code that imports devpi-server. No other room imports this one.

Doors: `python -m sidecar.worker` (see `sidecar.devpi.spawn`) and, for the entrypoint only, `tools`.
"""
