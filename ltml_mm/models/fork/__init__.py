"""The fork of a backbone: two copies of its last stage, one trunk."""
