"""One file per optimiser: a configuration and parameter tables in, an optax transformation out."""
