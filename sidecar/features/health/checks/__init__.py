"""The rules that make a verdict of what was seen: a module a check. Doors: `verdict` (what all of them are made of)."""
