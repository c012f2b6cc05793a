"""Random transforms of patches, on batchgenerators."""
