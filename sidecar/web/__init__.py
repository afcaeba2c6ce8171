"""The sidecar's HTTP API and page. Doors: `app.make_app` with a `context.Context`, `server.site.serve`."""
