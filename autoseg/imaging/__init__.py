"""Image files, dataset folders and arrays: the tools between a file and a preprocessed array."""
