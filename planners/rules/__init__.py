"""The rules, one module each, with constant, reason and source."""
