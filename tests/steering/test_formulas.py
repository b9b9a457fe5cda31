"""Formulas are parsed on many threads at a time, at any depth of calls."""

import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from steering.formulas import parsed


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can, also while the parser makes its objects."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()

    def yields(*_: object) -> None:
        for _turn in range(20):
            pass

    sys.setswitchinterval(1e-6)
    gc.set_threshold(5)
    gc.callbacks.append(yields)
    yield
    gc.callbacks.remove(yields)
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty")
def test_threads_do_not_disturb_each_other():
    faults: list[BaseException] = []

    def work(depth: int) -> None:
        if depth:
            return work(depth - 1)
        try:
            for _ in range(1000):
                parsed("2 * nearness + min(a, b(c=1)) - log(x) / 4")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(7 * k,)) for k in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not faults, faults[0]
