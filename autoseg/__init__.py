"""Medical image segmentation that configures itself; `autoseg.pipeline` is the front door."""

DISTRIBUTION = "autoseg-med"
"""Name of the installed package: an unrelated project has the name `autoseg` in the package index."""
