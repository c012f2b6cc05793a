"""From preprocessed cases to augmented batches."""
