"""Values as they are typed on a command line."""

from deploy.console import fail


def parse_value(text: str) -> bool | int | float | str:
    """`7` as int, `0.5` as float, `true` and `false` as bool, anything else as text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text, text)


def named(option: str, text: str) -> tuple[str, bool | int | float | str]:
    """`churn=40` as a name and a value; ends the command where it is neither."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        fail(f"{option}: expected NAME=VALUE, got {text!r}")
    return name, parse_value(value)
