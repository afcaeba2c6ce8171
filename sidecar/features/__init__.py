"""One package for each thing that an operator can name."""
