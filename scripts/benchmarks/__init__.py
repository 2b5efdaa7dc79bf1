"""jaxpo beside what its users would pick instead: what `scripts/bench` runs."""
