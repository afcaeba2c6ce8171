"""Numbers for an operator: the content of devpi-server, its use, and the free space.

Doors: `counting.Counting`, `amounts.Numbers`.
"""
