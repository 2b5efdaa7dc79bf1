"""Folders of diffusers, in and out: the model, its noise schedule, adapters, users."""
