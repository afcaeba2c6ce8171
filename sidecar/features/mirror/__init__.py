"""devpi's mirrors, as far as the sidecar sees them. Door: `notice.Mirror`."""
