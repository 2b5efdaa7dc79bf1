"""Data construction of the methods: what a paper does to a data set before it trains. One file per method."""
