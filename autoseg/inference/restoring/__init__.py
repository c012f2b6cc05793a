"""Logits on the plan's grid to labels on the image's own grid, slice by slice."""
