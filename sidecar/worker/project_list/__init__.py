"""The upstream's list of projects, outside devpi-server's memory: PyPI has 650,000 names.

Doors: `kept_list.ProjectList` and, for its subprocess only, `__main__`. The subprocess reads a hostile document and
writes a compact file (`list_file`). It has no network and no secrets.
"""
