"""How the model that a run starts from is sampled, kept for what the run exports."""

from __future__ import annotations

from pathlib import Path

from jaxpo.config import Run
from jaxpo.convert.generation import GENERATION, keep_generation
from jaxpo.convert.model_io import near_generation, near_tokenizer
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.stages.run_tokenizer import Say, origins


def keep_generation_of_start(run: Run, directory: Path, tokenizer: Tokenizer, say: Say) -> None:
    """Copy the generation_config.json of the model that training starts from into the directory of a run that begins.

    Args:
      tokenizer: of the run; with another than the model's, the file's ids would mean other tokens.
    """
    start = next((Path(path) for _, path in origins(run)), None)
    if start is None or (directory / GENERATION).is_file():
        return
    own, theirs = near_generation(start), near_tokenizer(start)
    if own is None:
        return
    if theirs is not None and theirs.hash != tokenizer.hash:
        say(f"{GENERATION} of {start} is left out: its ids are those of another tokenizer")
        return
    keep_generation(directory, own)
