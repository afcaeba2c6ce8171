"""What every other room may use. Imports only the standard library.

Doors: `settings.from_environ`, `errors.Exit` and `errors.OperatorError`, `files` (written completely or not at all),
`lifecycle.Lifecycle` and its `Snapshot`, `logging.configure`, `text` and `terminal` (formatted values).
"""
