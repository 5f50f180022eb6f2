"""What a training set holds and what its samplers make of it."""
