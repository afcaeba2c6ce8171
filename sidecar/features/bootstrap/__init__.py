"""The first state of an empty serverdir: `devpi-init`, or an import.

Doors: `initial_state.InitialState`, `import_status` (followed, and kept), `unused` (archives beside data).
"""
