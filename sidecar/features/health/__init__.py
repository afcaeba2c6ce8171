"""Whether devpi-server is ready, and why not.

Doors: `monitor.Health` (the checks, kept fresh), `checks.Check`, `target.Serving`, `pace.Pace`.
"""
