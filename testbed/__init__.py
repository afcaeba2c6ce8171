"""What the tests and `bench` share: a package index on loopback, made-up packages, what /proc says, a browser."""
