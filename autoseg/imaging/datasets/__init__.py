"""Many files: which layouts a dataset folder may have, which files form a case, and whether they fit together."""
