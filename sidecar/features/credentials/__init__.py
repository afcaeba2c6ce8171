"""Root's password, the admin token and devpi's login secret.

Doors: `keeper.Credentials`, `password_status`, `password_advice`.
"""
