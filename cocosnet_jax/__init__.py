"""CoCosNet for JAX: exemplar-based image translation with dense correspondence."""

__version__ = "0.1.0"
