"""Experiments: compared methods, and reports on data sets and logs."""
