"""What travels between clients, fronts and replicas: messages, statuses, channels."""
