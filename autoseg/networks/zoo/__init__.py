"""Networks of MONAI and segmentation_models_pytorch in the outer form of networks of other packages."""
