"""Decoders of latents: pictures, as a pure function of a tree of arrays."""
