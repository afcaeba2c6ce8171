"""The first state of an empty serverdir: initialised, or imported.

Doors: `preparation.Bootstrap`, `import_status`.
"""
