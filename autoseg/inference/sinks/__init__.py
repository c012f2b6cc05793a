"""What else is made from probabilities while they stream: arrays, uncertainty, calibration."""
