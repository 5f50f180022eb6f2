"""Samplers for long-tailed multi-label recognition."""
