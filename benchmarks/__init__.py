"""One script per performance claim, run by `tiltserve bench NAME`; names with a leading underscore are shared parts."""
