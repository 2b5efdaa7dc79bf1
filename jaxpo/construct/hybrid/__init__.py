"""Which preference pairs go to people, and which to a judge (arXiv:2410.19133)."""
