"""One module per paper: `CLAIM`, fixed before it was run, and `measure(seed)`."""
