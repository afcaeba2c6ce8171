"""The measurements behind docs/performance.md: `just bench`, see `bench.__main__`."""
