"""The tools of prediction: windows, mirroring, ensembling, and the way back to the image's own grid."""
