"""The serverdir, which is on the volume, and the runtime directory, which is not.

Doors: `serverdir.Serverdir` (lock, staging, recovery), `inspection` (the content of a serverdir),
`runtime_dir.RuntimeDir`, `usage.Usage`.
"""
