"""Weights that others have trained: the release's networks, VGG-19, and the files they lie in."""
