"""`python -m deploy` is the command `tiltserve`."""

from deploy.cli import main

main()
