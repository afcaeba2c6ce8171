"""`/` for people, made of templates, and `/events`, which keeps it up to date."""
