"""Label maps: values, colours, masks of single labels, names."""
