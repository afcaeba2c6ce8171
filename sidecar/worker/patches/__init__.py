"""Patches of devpi-server and waitress, applied at run time."""
