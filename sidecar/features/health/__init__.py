"""Whether devpi-server is ready, and why not. Door: `monitor.Health`."""
