"""The tokenizer of a run: the one named, that of the model it starts from, or one trained on the run's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from jaxpo.config import Run
from jaxpo.convert.model_io import TOKENIZER, near_tokenizer
from jaxpo.data.chat.template_choice import announcements
from jaxpo.data.rows.formats import list_files
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.data.tokens.seeing import with_images
from jaxpo.data.tokens.texts import texts_of
from jaxpo.errors import ConfigError
from jaxpo.recipe.kinds import kind_of
from jaxpo.recipe.lineage import PREVIOUS, RANDOM, trained

Say = Callable[[str], None]


def run_tokenizer(run: Run, directory: Path, files: tuple[str, ...], say: Say) -> Tokenizer:
    """A run's tokenizer, kept in its directory with the files that lay beside it.

    Args:
      files: to train one on, where the run trains its own.
      say: told where it comes from, and what is to be known of it, its chat template too unless all stages read
        captions.

    Raises:
      ConfigError: the model that training starts from has another tokenizer, or none where its own is asked for.
    """
    folder = directory / TOKENIZER
    kept = run.tokenizer.path is None and (folder / "tokenizer.json").is_file()
    tokenizer = Tokenizer.load(folder) if kept else _found(run, files, say).with_added(run.tokenizer.added)
    if run.tokenizer.images is not None:
        tokenizer = with_images(tokenizer, run.tokenizer.images)
    problems = [p for name, path in origins(run) for p in _unlike(tokenizer, name, path, run, say)]
    if problems:
        raise ConfigError(problems)
    for line in announcements(tokenizer, chats=any(kind_of(stage).runs != "denoise" for stage in run.stages)):
        say(line)
    if not kept:
        tokenizer.save(folder)
    return tokenizer


def origins(run: Run) -> Iterator[tuple[str, str]]:
    """The folders of models that training starts from, with the field that names each."""
    if run.model_from is not None:
        yield "model_from", run.model_from
    stages = {stage.name for stage in run.stages}
    for stage in trained(run):
        if stage.init_from not in (PREVIOUS, RANDOM) and stage.init_from not in stages:
            yield f"{stage.name}.init_from", stage.init_from


def _found(run: Run, files: tuple[str, ...], say: Say) -> Tokenizer:
    if run.tokenizer.path is not None:
        return Tokenizer.load(run.tokenizer.path)
    if run.tokenizer.train_on:
        listed = list_files(files, say=say)
        tokenizer = train_tokenizer(texts_of(listed), run.tokenizer.vocab_size)
        say(f"tokenizer: {tokenizer.vocab_size} tokens, trained on {len(listed)} file(s)")
        return tokenizer
    name, path = next(origins(run))
    own = near_tokenizer(Path(path))
    if own is None:
        raise ConfigError(f"{name}: there is no tokenizer beside {path}; name the model's own with --tokenizer.path.")
    say(f"tokenizer: {own.vocab_size} tokens, that of {path}")
    return own


def _unlike(tokenizer: Tokenizer, name: str, path: str, run: Run, say: Say) -> Iterator[str]:
    """Why a tokenizer cannot be used with a model; what it means where the embedding is said to be new."""
    own = near_tokenizer(Path(path))
    if own is None:
        say(f"{name} {path}: its tokenizer is unknown, there is none beside it; only the size of the vocabulary counts")
    elif own.hash == tokenizer.hash:
        if own.files.templates and own.files.templates != tokenizer.files.templates:
            say(f"warning: {name} {path} has another chat template than {run.tokenizer.path}, whose is used")
    elif (names := tokenizer.added_to_one(own)) is not None:
        say(
            f"{name} {path}: its tokenizer differs in added tokens alone ({', '.join(names[:5])}"
            f"{', ...' if len(names) > 5 else ''}); theirs are the rows of its embedding that have their numbers"
        )
    elif run.tokenizer.new_embedding:
        say(
            f"{name} {path}: has another tokenizer ({own.vocab_size} tokens, not {tokenizer.vocab_size}); the rows of "
            "its embedding are taken over by their numbers and stand for other tokens now"
        )
    else:
        yield (
            f"tokenizer: is not that of {name} {path} ({tokenizer.vocab_size} tokens instead of {own.vocab_size}), so "
            "every row of its embedding would stand for another token. Leave out --tokenizer.path to use the model's "
            "own, or give --tokenizer.new-embedding to learn the embedding anew."
        )
