"""The engine: rows of all running requests share one network call after another."""
