"""Shared by tests and `bench`: a package index on loopback, generated packages, values from /proc, a browser."""
