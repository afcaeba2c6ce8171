"""The sidecar's HTTP. Doors: `app.make_app` with a `context.Context`, `server.site.serve`."""
