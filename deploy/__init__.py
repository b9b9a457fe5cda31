"""How tiltserve starts: configuration, the Ray Serve application, the command line, the demo."""
