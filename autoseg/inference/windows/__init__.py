"""The network over a whole image: windows, mirrored variants, batches, precision, and the accumulation of logits."""
