"""Search over the steps of answers, and pairs of sibling steps out of its trees (arXiv:2405.00451)."""
