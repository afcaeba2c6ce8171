"""What every other room may use, made of the standard library alone.

Doors: `settings.from_environ`, `errors.Exit` and `errors.OperatorError`, `files` (whole or absent, whatever happens),
`lifecycle.Lifecycle` and its `Snapshot`, `logging.configure`, `text` and `terminal` (values as people read them).
"""
