"""devpi's storages, as they can be looked at from outside. Door: `sqlite`."""
