"""The public endpoint: finds replicas through the directory, forwards to them; imports neither torch nor steering."""
