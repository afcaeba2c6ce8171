"""One container's life. Door: `main.run`; `stops` before anything else is imported."""
