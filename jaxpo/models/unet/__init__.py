"""U-Nets in the form of Stable Diffusion 1 and 2: convolutions, and attention to a text at several resolutions."""
