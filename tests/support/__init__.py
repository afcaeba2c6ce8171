"""Code that several folders of tests need."""
