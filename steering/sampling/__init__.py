"""Samplers: generators that ask for network rows, and the loop that answers them in a notebook."""
