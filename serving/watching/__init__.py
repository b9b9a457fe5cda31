"""What is told of one request: its record, log lines, times and spans. Fronts and replicas use it alike."""
