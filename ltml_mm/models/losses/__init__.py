"""Losses for long-tailed multi-label recognition."""
