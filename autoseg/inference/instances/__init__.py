"""Instances that networks find one by one: in windows, clustered, pasted on the image's grid."""
