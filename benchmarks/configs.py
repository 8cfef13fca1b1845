"""The config that a benchmark's `--config` names."""

import importlib

from ml_collections import ConfigDict


def load(name: str) -> ConfigDict:
    """Returns a config to be changed and described.

    Args:
      name: such as `configs/ade20k.py:released`, in a folder that can be imported, or
        `ade20k:released`, one of the project's.

    Returns:
      The config, with random exemplars, and ADE20K's classes where it leaves their number open.
    """
    file, _, variant = name.partition(":")
    if "/" not in file:
        file = f"configs/{file}"
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    config: ConfigDict = module.get_config(variant) if variant else module.get_config()
    config.data.exemplar_list = "random"
    config.data.channels = config.data.channels or 151
    return config
