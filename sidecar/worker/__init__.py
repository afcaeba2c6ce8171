"""The devpi-server process, and devpi's tools: all that imports devpi. Nobody imports this room.

Doors: `python -m sidecar.worker` (see `sidecar.devpi.spawn`) and, for the entrypoint alone, `tools`.
"""
