"""Checks of autoseg on a GPU: `scripts/check_gpu` runs them, docs/gpu.md says how to read what they find."""
