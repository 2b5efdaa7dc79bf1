"""`scripts/bench --device`: what an accelerator does. Needs jax, flax, optax, numpy and this tree."""
