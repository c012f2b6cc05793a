"""Files, geometry and arrays: the tools between an image file and a preprocessed array."""
