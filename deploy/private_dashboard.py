"""Ray's dashboard process, which is started even where no dashboard is wanted."""

import importlib
from typing import Any

import ray

from deploy.settings import SettingsError

PLACE, NODE, START = "ray._private.node", "Node", "start_api_server"


def leave_out() -> None:
    """Let Ray start no dashboard: without its pages it is left with nothing but to ask for its cloud's name.

    It looks for it at 169.254.169.254 and metadata.google.internal, whether or not it may report it, and there is no
    setting for that.

    Raises:
        SettingsError: this version of Ray starts it in another way.
    """
    node: Any = getattr(importlib.import_module(PLACE), NODE, None)
    if not hasattr(node, START):
        raise SettingsError(
            f"ray: expected {PLACE}.{NODE}.{START}, as in Ray 2.60, got Ray {ray.__version__} without it"
        )
    setattr(node, START, lambda self, **_: None)
