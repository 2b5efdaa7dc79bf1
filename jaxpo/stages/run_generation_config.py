"""How the model that a run starts from is sampled, kept for what the run exports."""

from __future__ import annotations

from pathlib import Path

from jaxpo.config import Run
from jaxpo.convert.generation import GENERATION, keep_generation
from jaxpo.convert.model_io import near_generation, near_tokenizer
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.stages.run_tokenizer import Say


def keep_generation_of_start(run: Run, directory: Path, tokenizer: Tokenizer, say: Say) -> None:
    """Copy the generation_config.json of `model_from` into the run directory, when the run begins.

    Args:
      tokenizer: of the run; with another than the model's, the file's ids would mean other tokens.
    """
    if run.model_from is None or (directory / GENERATION).is_file():
        return
    own, theirs = near_generation(Path(run.model_from)), near_tokenizer(Path(run.model_from))
    if own is None:
        return
    if theirs is not None and theirs.hash != tokenizer.hash:
        say(f"{GENERATION} of {run.model_from} is left out: its ids are those of another tokenizer")
        return
    keep_generation(directory, own)
