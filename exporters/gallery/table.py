"""All recipes, in the order of docs/gallery.md."""

from exporters.gallery import (
    cfc,
    chemotaxis,
    chromatograph,
    couple,
    ecg,
    flows,
    kovasznay,
    moments,
    neurosonic,
    reduction,
    stable_sdes,
    stations,
    turbulence,
)
from exporters.gallery.recipe import Recipe

_MODULES = (
    stable_sdes,
    moments,
    cfc,
    neurosonic,
    ecg,
    turbulence,
    stations,
    reduction,
    chromatograph,
    couple,
    chemotaxis,
    flows,
    kovasznay,
)
RECIPES: dict[str, Recipe] = {module.RECIPE.name: module.RECIPE for module in _MODULES}
