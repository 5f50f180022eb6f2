"""Converts annotations of several formats to MMPretrain's JSON."""
