"""devpi's storages, as far as they can be examined from outside. Door: `sqlite`."""
