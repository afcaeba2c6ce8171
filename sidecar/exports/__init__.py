"""Archives and folders of devpi-export: hostile until shown otherwise, then one verified export.

Doors: `sources.find`, `unpack.unpack`, `merge.load`.
"""
