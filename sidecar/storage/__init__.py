"""The serverdir, which is the volume, and the runtime directory, which is not.

Doors: `serverdir.Serverdir` (lock, staging, recovery), `inspection` (what a serverdir holds), `runtime_dir.RuntimeDir`,
`usage.Usage`.
"""
