"""SigLIP2 NaFlex (arXiv 2502.14786): the encoder of images of any size, over packed rows of patches."""
