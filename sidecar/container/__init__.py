"""One container's life. Door: `main.run` (boot, serving, shutdown); `stops` before anything else is imported."""
