"""How a row of a program is answered."""

from collections.abc import Generator

from serving.backends import Array
from serving.engine.task import Step
from steering.dynamics import Reply

Answering = Generator[Step, list[Array], Reply]
"""Asks the engine for evaluations, and returns the reply to an `Ask`."""
