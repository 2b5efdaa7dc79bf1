"""GGUF, the files of llama.cpp: written, read, and run in llama.cpp itself to see that they compute the same.

Everything follows from the names of a Hugging Face checkpoint; a parameter knows nothing of GGUF. The arrangement of
the keys and tensors of `lfm2` and `lfm2moe` is llama.cpp's.
"""
