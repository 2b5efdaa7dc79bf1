"""Tools that a model may call: text in, an observation out. Importing them imports no jax."""
