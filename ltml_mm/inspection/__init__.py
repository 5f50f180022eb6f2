"""Pages to look at a model: a report on a test set, and one to try it."""
