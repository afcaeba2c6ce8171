"""Whether devpi-server is ready, and why not.

Doors: `monitor.Health` (the checks, kept fresh), `checks` (a module a check), `target.Serving`, `pace.Pace`.
"""
