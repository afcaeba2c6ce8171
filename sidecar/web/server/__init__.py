"""Listening sockets, connections, TLS and limits."""
