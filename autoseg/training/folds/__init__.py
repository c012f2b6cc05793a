"""One fold from its first epoch to its final weights: checkpoints, history, stopping, resuming."""
