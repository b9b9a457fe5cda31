"""Steering methods: Doob's transform, sequential Monte Carlo, inverse problems, and their parts."""
