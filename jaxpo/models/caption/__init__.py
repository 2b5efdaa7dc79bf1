"""A small text tower: the states of a caption for the models that denoise images."""
