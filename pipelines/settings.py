"""Kedro's settings of this project: packaged configuration, environment `base`, no hooks of its own.

Kedro reads the names; see `configure_project`.
"""

from kedro.config import OmegaConfigLoader

CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS = {"base_env": "base", "default_run_env": "base"}
