"""Folders of diffusers, each imported once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_diffusers as tiny
from tests.exporters.diffusers.imported import AUTOENCODER, SIDE, Imported


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """A folder by the name of its maker, and the pipeline that is in it."""
    root = tmp_path_factory.mktemp("diffusers")

    @cache
    def one(name: str) -> tuple[Path, Any]:
        made = getattr(tiny, name)()
        made.save_pretrained(str(root / name))
        return root / name, made

    return one


@pytest.fixture(scope="session")
def imported(saved: Callable[[str], tuple[Path, Any]]) -> Callable[[str], Imported]:
    """An imported folder by the name of its maker; each is exported once."""
    wishes: dict[str, dict[str, Any]] = {
        "stable_diffusion": {"free_size": True},
        "stable_diffusion_xl": {"without": AUTOENCODER},
        "flux": {"size": (SIDE,), "tokens": tiny.T5_LENGTH, "without": AUTOENCODER},
        "dit": {"only": frozenset({"transformer"})},
    }

    @cache
    def one(name: str) -> Imported:
        return Imported(*saved(name), **wishes.get(name, {}))

    return one
