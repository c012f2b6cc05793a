"""Medical image segmentation that configures itself; `autoseg.pipeline` is the front door."""
