"""The recipe of the configuration tests serves here too."""

from recipe.conftest import config_file, recipe, rows

__all__ = ["config_file", "recipe", "rows"]
