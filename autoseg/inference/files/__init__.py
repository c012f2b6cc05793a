"""Many images through one model: which files to read, which to write, and the lists of a run."""
