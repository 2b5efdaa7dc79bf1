"""The encoders of a diffusers folder, by diffusers itself, which jaxpo does not depend on."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.diffusion.segments import Marks, long_states
from jaxpo.errors import ConfigError

VAE, TEXT, TOKENIZER = "vae", "text_encoder", "tokenizer"


class DiffusersEncoder:
    """A folder with `vae/`, and where captions become states `text_encoder/` and `tokenizer/`; weights in safetensors.

    Args:
      folder: of a pipeline on disk; nothing is fetched.
      text: make states of captions too.
      second: folder of a second text encoder of T5's form, in `text_encoder/` and `tokenizer/`, for captions as they
        are; None = there is none.
      length: positions of a caption's states where they are of its sentences, each encoded alone (LongAlign); None =
        the tokenizer's, and what is longer is cut.

    Attributes:
      cut: captions that have lost something, of each encoder.

    Raises:
      ConfigError: diffusers or transformers is not installed, or the folder lacks a part.
    """

    def __init__(self, folder: Path, *, text: bool, length: int | None = None, second: Path | None = None):
        texts = (TEXT, TOKENIZER)
        for place, parts in ((folder, (VAE, *(texts if text else ()))), *(((second, texts),) if second else ())):
            if missing := [part for part in parts if not (place / part).is_dir()]:
                raise ConfigError(f"{place}: has no {', '.join(missing)}; give the folder of a diffusers pipeline.")
        self._torch, diffusers = _library("torch"), _library("diffusers")
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        self._vae = diffusers.AutoencoderKL.from_pretrained(folder / VAE, **options).eval()
        self.scale = float(self._vae.config.scaling_factor)
        self._text: tuple[Any, Any] | None = None
        self._length, self.cut = length, 0
        if text:
            transformers = _library("transformers")
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder / TOKENIZER, local_files_only=True)
            model = transformers.CLIPTextModel.from_pretrained(folder / TEXT, **options)
            self._text = tokenizer, model.eval()
        self._second: tuple[Any, Any] | None = None
        if second is not None:
            transformers = _library("transformers")
            tokenizer = transformers.AutoTokenizer.from_pretrained(second / TOKENIZER, local_files_only=True)
            model = transformers.T5EncoderModel.from_pretrained(second / TEXT, **options)
            self._second = tokenizer, model.eval()

    def latents(self, images: np.ndarray) -> np.ndarray:
        """The mean of the posterior, times the scale: the same image has the same latent."""
        with self._torch.no_grad():
            pixels = self._torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
            found: np.ndarray = (self._vae.encode(pixels).latent_dist.mean * self.scale).numpy()
        return found

    def states(self, captions: Sequence[str]) -> np.ndarray | None:
        """Last hidden states of captions filled up to the tokenizer's length, or of their sentences to another one."""
        if self._text is None:
            return None
        tokenizer = self._text[0]
        if self._length is None:
            self.cut += _longer(tokenizer, captions)
            return self._encode(captions)[1]
        marks = Marks(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        found, cut = long_states(captions, self._encode, marks, length=self._length)
        self.cut += cut
        return found

    def more_states(self, captions: Sequence[str]) -> Sequence[np.ndarray] | None:
        """Last hidden states of whole captions by the second encoder, `[L, C]` each, without what fills them up."""
        if self._second is None:
            return None
        tokenizer, model = self._second
        self.cut += _longer(tokenizer, captions)
        given = tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        with self._torch.no_grad():
            found = model(given.input_ids, attention_mask=given.attention_mask).last_hidden_state.numpy()
        return [own[here] for own, here in zip(found, given.attention_mask.numpy() > 0, strict=True)]

    def _encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and last hidden states, `[N, L]` and `[N, L, D]`."""
        assert self._text is not None
        tokenizer, model = self._text
        ids = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        with self._torch.no_grad():
            return ids.numpy(), model(ids).last_hidden_state.numpy()


def _longer(tokenizer: Any, texts: Sequence[str]) -> int:
    """How many texts are more tokens than the encoder takes."""
    return sum(len(ids) > tokenizer.model_max_length for ids in tokenizer(list(texts)).input_ids)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"encoding images needs {name}; `pip install torch transformers diffusers` beside jaxpo, which itself runs "
            "without."
        ) from error
