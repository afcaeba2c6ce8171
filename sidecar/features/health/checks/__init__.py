"""The rules that turn observations into verdicts: a module a check."""
