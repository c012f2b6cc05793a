"""Networks that find objects one by one (Mask R-CNN): pyramid, proposals, regions of interest, heads."""
