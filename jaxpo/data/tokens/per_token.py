"""Names of the per-token columns that say how the positions of a text are used."""

KEY = "key"
"""0 where attention is to see a position as no key."""
SCORED = "scored"
"""1 where a position of a query or document has a vector that is compared."""
