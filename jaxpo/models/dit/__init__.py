"""Diffusion transformers in PixArt's form: self-attention, attention to a text, one adaptive norm for all layers."""
