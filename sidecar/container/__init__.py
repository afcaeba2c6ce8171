"""One container's life. Door: `main.run`. Read `boot`, `supervisor`, `shutdown` in this order: they are the story."""
