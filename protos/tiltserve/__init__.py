"""Protocol buffer packages of tiltserve."""
