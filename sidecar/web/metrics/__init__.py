"""`/metrics`: families, collectors, exposition."""
