"""Models of other projects come in here, and ours go out."""
