"""The tools of select: predictions of held-out cases, and the search for thresholds, refinement and post-processing."""
