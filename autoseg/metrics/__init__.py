"""Measures of agreement between a prediction and a reference."""
