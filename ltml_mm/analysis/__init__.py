"""What a training set holds, what its samplers make of it, what a run did."""
