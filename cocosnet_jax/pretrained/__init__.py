"""Weights that others have trained: the release's networks, VGG, and the files they lie in."""
