"""LFM2-VL: a SigLIP2 tower, a connector, and LFM2, whose embeddings the connector's vectors replace."""
