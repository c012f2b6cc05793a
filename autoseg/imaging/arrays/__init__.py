"""Arrays without files: crop, resample, normalise, label values, components, storage of preprocessed cases."""
