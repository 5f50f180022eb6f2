"""From scores to decisions: thresholds, calibration, weights to share."""
