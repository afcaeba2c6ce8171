"""Our side of devpi-server: the process that runs it, what is said to that, and what it answers over HTTP.

Doors: `spawn.spawn`, `process.Child`, `protocol` (all messages), `client.DevpiClient`,
`server_status.ServerStatus`.
No code of devpi's is imported here.
"""
