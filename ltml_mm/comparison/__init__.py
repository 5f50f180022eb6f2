"""Methods compared over seeds: the runs, and the tables made of them."""
