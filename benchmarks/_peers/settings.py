"""What a peer's process is told."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks._peers.sampling import Sampler, Strategy


@dataclass(frozen=True)
class Settings:
    """Where and how a peer serves.

    Attributes:
        batch: most rows in a batch; 0: requests run one at a time.
        delay_ms: how long a batch that is not full waits for more.
    """

    port: int
    model: str
    threads: int
    strategy: Strategy
    batch: int
    delay_ms: float
    counters: str

    def sampler(self) -> Sampler:
        return Sampler(Path(self.model), threads=self.threads, strategy=self.strategy, counters=Path(self.counters))

    def most_requests(self, mean_samples: float = 2.5) -> int:
        """The batch's bound for servers that count requests: as many as have `batch` rows on average."""
        return max(1, round(self.batch / mean_samples))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def from_arguments() -> Settings:
    """The settings in this process's only argument."""
    return Settings(**json.loads(sys.argv[1]))
