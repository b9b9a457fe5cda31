"""All recipes, in the order of docs/gallery.md."""

from exporters.gallery import (
    cfc,
    chemotaxis,
    chromatograph,
    co2,
    couple,
    ecg,
    equilibrium,
    fermi,
    flows,
    fractional,
    kinetic,
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
    equilibrium,
    co2,
    chromatograph,
    couple,
    chemotaxis,
    fractional,
    kinetic,
    fermi,
    flows,
    kovasznay,
)
RECIPES: dict[str, Recipe] = {module.RECIPE.name: module.RECIPE for module in _MODULES}
