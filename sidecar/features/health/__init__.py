"""Whether devpi-server is ready, and if not, why. Door: `monitor.Health`."""
