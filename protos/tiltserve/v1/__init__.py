"""Version 1 of the tiltserve services."""
