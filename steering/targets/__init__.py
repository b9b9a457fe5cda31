"""What samples are steered toward: rewards, and the laws that they tilt a model to."""
