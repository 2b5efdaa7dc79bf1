"""jaxpo: functional training of the LFM2 model family in JAX."""

__version__ = "0.1.0"
