"""The measurements behind docs/performance.md: `python3 dev.py bench`, see `bench.__main__`."""
