"""Sockets and connections: listening, TLS, limits."""
