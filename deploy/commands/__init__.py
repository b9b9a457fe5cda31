"""The subcommands of `tiltserve`, one a file. Heavy imports stay inside the functions, so that --help is quick."""
