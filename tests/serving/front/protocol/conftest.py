"""One server for all tests of the protocol, and NVIDIA's client for it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.serving.live import Live, running

Refusal = Callable[[Callable[[], object]], tuple[str, str]]


@pytest.fixture(scope="package")
def live(small_models: Path) -> Iterator[Live]:
    """A front before two replicas, with all that has to be allowed."""
    front = {"allow_shared_memory": True, "allow_model_control": True}
    with running(small_models, count=2, front=front, allow_model_control=True) as made:
        yield made


@pytest.fixture
def client(live: Live) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(live.address) as made:
        yield made


@pytest.fixture(scope="session")
def refusal() -> Refusal:
    """The status and the one line of a call that must fail."""

    def refused(call: Callable[[], object]) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as caught:
            call()
        text = caught.value.message()
        assert "\n" not in text
        return caught.value.status().removeprefix("StatusCode."), text

    return refused


@pytest.fixture(autouse=True)
def _as_before(log_levels: None) -> None:
    """Any test here may change what the processes of a server log."""
