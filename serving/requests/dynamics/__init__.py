"""A request for trajectories of a model of dynamics becomes a task, and its solution an answer."""
