"""The first state of an empty serverdir: `devpi-init`, or an import.

Doors: `preparation.Bootstrap`, `import_status`.
"""
