"""One training step: network, optimiser, learning rate, moving averages, compilation."""
