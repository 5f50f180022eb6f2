"""Metrics for long-tailed multi-label recognition."""
