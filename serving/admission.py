"""Whether a task is taken on."""


class DeadlineError(Exception):
    """A task that would not be through before its deadline; one line with the estimate."""
