"""The upstreams of devpi's mirrors. Doors: `following.Mirror`, `upstream_state`."""
