"""Answers for programs: probes, `/status`, `/bootstrap`, the description."""
