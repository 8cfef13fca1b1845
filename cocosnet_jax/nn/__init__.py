"""Layers that the networks are built from."""
