"""How many replicas there are to be: as many as work off what waits in the time that is asked for.

Serve pickles this module for its controller and calls the policy there, so it imports nothing of ours.
"""

import math
from typing import Any

BACKLOG = "backlog_seconds"
"""Seconds that what a replica took on will take it, as it tells Serve."""
SLACK = 0.5
"""A replica is taken away where the others would then have less than this share of the target each: between the two
nothing changes, so that a load in the middle does not start and stop replicas."""


class ByBacklog:
    """A policy of Serve's autoscaler, which applies its own delays and bounds to what this says.

    Args:
        target_s: seconds of work that a replica may have before it.
    """

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Replicas, and what to remember: nothing."""
        told = (context.aggregated_metrics or {}).get(BACKLOG, {})
        now = int(context.target_num_replicas)
        if not told:  # nobody has told anything: replicas are starting
            return now, {}
        waiting = sum(map(float, told.values()))
        wanted = max(1, math.ceil(waiting / self._target_s))
        if wanted < now:
            wanted = max(wanted, min(now, math.ceil(waiting / (SLACK * self._target_s))))
        return wanted, {}
