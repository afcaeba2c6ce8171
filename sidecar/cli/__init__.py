"""The command `sidecar`. Door: `__main__.main`."""
