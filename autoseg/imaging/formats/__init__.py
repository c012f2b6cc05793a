"""One file: NIfTI, ITK's formats and 2D images, read and written with their geometry."""
