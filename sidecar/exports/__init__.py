"""Archives and folders of devpi-export: hostile input that becomes one verified export.

Doors: `sources.find`, `unpack.unpack`, `merge.load`.
"""
