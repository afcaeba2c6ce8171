"""`/` for people: a section a module, and `/events`, which keeps it fresh."""
