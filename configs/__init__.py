"""One file per dataset, with its recipe, expected results, and the command.

The package contains this folder as `cocosnet_jax.configs`. Its files import each other by that
name, so that a user's own folder `configs` never replaces them.
"""
