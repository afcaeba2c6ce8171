"""The sidecar's side of devpi-server: its process, the messages to and from it, and its answers over HTTP.

Doors: `spawn.spawn`, `process.Child`, `protocol` (all messages), `client.DevpiClient`,
`server_status.ServerStatus`.
No code of devpi is imported here.
"""
