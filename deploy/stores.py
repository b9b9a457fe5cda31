"""Where a replica's models come from, and where what is made of them is kept, as the settings say."""

from pathlib import Path

from deploy.settings import Settings
from serving.models.artifacts import Artifacts
from serving.models.mirror import Mirror
from serving.models.object_store import ObjectShelf
from serving.models.shelf import FolderShelf, PatientShelf


def mirror(settings: Settings) -> Mirror | None:
    """Of the store that models come from; None where they come from a folder."""
    found = settings.repository
    return Mirror(found, settings.models_cache) if isinstance(found, str) else None


def fetched(settings: Settings, found: Mirror | None) -> Path:
    """The folder of models, with what its store has now.

    Raises:
        StoreError: the store cannot be read, and nothing was fetched from it before.
    """
    if found is None:
        assert isinstance(settings.repository, Path)
        return settings.repository
    found.first()
    return found.folder


def artifacts(settings: Settings) -> Artifacts | None:
    """Where replicas find what one of them has made of a model.

    Raises:
        StoreError: the address cannot be used.
    """
    place = settings.artifacts
    if place is None:
        return None
    return Artifacts(PatientShelf(ObjectShelf(place) if isinstance(place, str) else FolderShelf(place)))
