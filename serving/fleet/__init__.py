"""Which replicas and fronts there are, and what they serve."""
