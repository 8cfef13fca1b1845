"""One file per dataset: what it follows, what to expect, the command.

The package has this folder as `cocosnet_jax.configs`, and its files import each other by that
name: a folder `configs` of the user's own never takes their place.
"""
