"""Root's password, the admin token and devpi's login secret.

Doors: `claims.Bootstrap` (claim, rotate, expire), `users.Users`, `secrets.AdminToken`, `login_secret.place_secret`.
"""
