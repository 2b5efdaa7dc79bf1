"""The encoders of a diffusers folder, by diffusers itself, which jaxpo does not depend on."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.errors import ConfigError

VAE, TEXT, TOKENIZER = "vae", "text_encoder", "tokenizer"


class DiffusersEncoder:
    """A folder with `vae/`, and where captions become states `text_encoder/` and `tokenizer/`; weights in safetensors.

    Args:
      folder: of a pipeline on disk; nothing is fetched.
      text: make states of captions too.

    Raises:
      ConfigError: diffusers or transformers is not installed, or the folder lacks a part.
    """

    def __init__(self, folder: Path, *, text: bool):
        parts = (VAE, TEXT, TOKENIZER) if text else (VAE,)
        if missing := [part for part in parts if not (folder / part).is_dir()]:
            raise ConfigError(f"{folder}: has no {', '.join(missing)}; give the folder of a diffusers pipeline.")
        self._torch, diffusers = _library("torch"), _library("diffusers")
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        self._vae = diffusers.AutoencoderKL.from_pretrained(folder / VAE, **options).eval()
        self.scale = float(self._vae.config.scaling_factor)
        self._text: tuple[Any, Any] | None = None
        if text:
            transformers = _library("transformers")
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder / TOKENIZER, local_files_only=True)
            model = transformers.CLIPTextModel.from_pretrained(folder / TEXT, **options)
            self._text = tokenizer, model.eval()

    def latents(self, images: np.ndarray) -> np.ndarray:
        """The mean of the posterior, times the scale: the same image has the same latent."""
        with self._torch.no_grad():
            pixels = self._torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
            found: np.ndarray = (self._vae.encode(pixels).latent_dist.mean * self.scale).numpy()
        return found

    def states(self, captions: Sequence[str]) -> np.ndarray | None:
        """Last hidden states of captions filled up to the tokenizer's length."""
        if self._text is None:
            return None
        tokenizer, model = self._text
        ids = tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids
        with self._torch.no_grad():
            found: np.ndarray = model(ids).last_hidden_state.numpy()
        return found


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"encoding images needs {name}; `pip install torch transformers diffusers` beside jaxpo, which itself runs "
            "without."
        ) from error
