"""What is replaced in devpi-server and waitress while they run."""
