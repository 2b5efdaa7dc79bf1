"""`jaxpo generate MODEL CAPTION ... --out FOLDER`: images of captions, a grid of them, and what rewards say of each."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.config.file import load_module
from jaxpo.errors import ConfigError, JaxpoError, did_you_mean

SAMPLER = {
    "steps": (int, "times at which the model is asked (default 25)"),
    "guidance": (float, "1 = the caption alone, 0 = no caption (default 3)"),
    "rescale": (float, "share of the deviation that guidance changed and is set back (default 0)"),
    "eta": (float, "0 = the noise decides, 1 = fresh noise in every step (default 0)"),
    "spacing": (str, "of the times: leading, trailing or linspace (default trailing)"),
    "clip": (float, "bound of estimates of the image; 0 = none (default 1)"),
    "guide_users": (bool, "guidance is about the user as well: away from the empty caption and nobody"),
}
SPACINGS = ("leading", "trailing", "linspace")
OTHERS = ("negative", "score", "segments", "for_user", "zoom")
SHARED = ("model", "prompts", "file", "n", "seed", "out", "fallback")


def add_drawing_options(parser: Parser) -> None:
    """What only a model that draws has."""
    group = parser.add_argument_group("a model that draws images")
    for name, (kind, meaning) in SAMPLER.items():
        flag, choices = f"--{name.replace('_', '-')}", SPACINGS if name == "spacing" else None
        how: dict[str, Any] = {"type": kind, "choices": choices}
        if kind is bool:
            how = {"action": "store_const", "const": True}
        group.add_argument(flag, help=meaning, **how)
    group.add_argument("--negative", type=Path, help="model that guidance pushes away from (Diffusion-NPO, Self-NPO)")
    group.add_argument(
        "--score",
        action="append",
        metavar="REWARD",
        help="what to say of every image: brightness, left, red, ..., or FILE.py:FUNCTION of images and captions",
    )
    pieces = "pieces of a caption that are read each alone (default: as many as it was trained with)"
    group.add_argument("--segments", type=int, help=pieces)
    group.add_argument(
        "--for-user",
        action="append",
        metavar="FILE[=WEIGHT]",
        help="whom the images are for: pairs of images that show the taste; several are mixed by their weights",
    )
    group.add_argument("--zoom", type=int, help="size of a pixel in the grid (default: images of 128 pixels)")


def draws_images(model: Path) -> bool:
    """Whether it is a model that denoises; a folder that holds none is told of where it is read."""
    from jaxpo.convert.model_io import read_config
    from jaxpo.models.family import family

    try:
        return family(read_config(model)).denoise is not None
    except JaxpoError:
        return False


def only_of_images(args: argparse.Namespace) -> None:
    """ConfigError for options that mean nothing to a model that writes text."""
    said = [f"--{name.replace('_', '-')}" for name in (*SAMPLER, *OTHERS) if getattr(args, name) is not None]
    if said:
        raise ConfigError(
            [f"{option}: only a model that draws images has it, and {args.model} is none." for option in said]
        )


def write_images(args: argparse.Namespace, parser: Parser) -> int:
    """Draw, write PNG files with a grid and a list, and say what came of it."""
    import numpy as np

    from jaxpo.cli.sampling_options import load_with_tokenizer
    from jaxpo.data.images.captions import SEGMENTS, unknown
    from jaxpo.sampling.images import ImageSampler, draw_images

    _only_of_texts(args, parser)
    captions = _captions(args)
    given = {name: getattr(args, name) for name in SAMPLER if getattr(args, name) is not None}
    sampler, counts = ImageSampler(**given), {name: getattr(args, name) for name in ("n", "segments", "zoom")}
    n = 1 if args.n is None else args.n
    problems = sampler.problems()
    problems += [f"--{name} must be at least 1." for name, x in counts.items() if x is not None and x < 1]
    if args.negative is not None and sampler.guidance == 1:
        problems.append("--negative: guidance 1 asks the model alone, never the negative one; give another --guidance.")
    if sampler.guide_users and args.for_user is None:
        problems.append("--guide-users: there is no user; say whom the images are for, --for-user FILE.")
    if sampler.guide_users and sampler.guidance == 1:
        problems.append("--guide-users: guidance 1 never asks about the empty caption; give another --guidance.")
    if args.out is None:
        problems.append("generate: --out FOLDER says where the images go.")
    elif args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        problems.append(f"--out {args.out}: exists already; remove it or name another folder.")
    if problems:
        raise ConfigError(problems)
    rewards = {name: reward_of(name) for name in args.score or ()}
    model = load_with_tokenizer(args.model)
    for name, reward in rewards.items():
        check_reward(name, reward, (model.config.sample_size, model.config.sample_size, model.config.in_channels))
    segments = args.segments or model.about.get(SEGMENTS, 1)
    if model.config.in_channels != 3:
        raise ConfigError(
            f"{args.model}: draws latents of {model.config.in_channels} channels, which are no pixels; export it, and "
            "draw with diffusers and the decoder that belongs to its data."
        )
    for caption in captions:
        if unknown(np.asarray(model.tokenizer.encode(caption), np.int32)):
            print(
                f"warning: {caption!r}: a word of it is unknown to the model, which reads it as nothing",
                file=sys.stderr,
            )
    negative = None if args.negative is None else _negative(args.negative, model.config)
    _say_cut(captions, model, segments)
    drawn = list(
        draw_images(
            model.params["model"],
            model.config,
            model.tokenizer,
            captions,
            sampler,
            n=n,
            seed=args.seed,
            negative=negative,
            segments=segments,
            user=None if args.for_user is None else _mixed(args.for_user, model),
        )
    )
    records = _kept(args.out, captions, drawn, rewards, n, args.zoom)
    for name in rewards:
        print(f"{name}: mean {sum(r[name] for r in records) / len(records):.4f} over {len(records)} images")
    about = {"model": str(args.model), "negative": args.negative and str(args.negative), **dataclasses.asdict(sampler)}
    (args.out / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    print(f"{len(records)} images in {args.out}, all of them in grid.png")
    return 0


def _only_of_texts(args: argparse.Namespace, parser: Parser) -> None:
    """ConfigError for options that mean nothing to a model that draws."""
    ours = {*SAMPLER, *OTHERS, *SHARED}
    said = [name for name, value in vars(args).items() if name not in ours and value != parser.get_default(name)]
    if said:
        flags = [f"--{name.removeprefix('option_').replace('_', '-')}" for name in said]
        raise ConfigError([f"{flag}: {args.model} draws images and writes no text; leave it out." for flag in flags])


def _captions(args: argparse.Namespace) -> list[str]:
    from jaxpo.data.images.formats import caption_of
    from jaxpo.data.rows.formats import read_rows

    captions = list(args.prompts)
    if args.file is not None:
        captions += [caption_of(row) for row in read_rows([args.file])]
    if not captions:
        raise ConfigError('generate: give a caption, or --file FILE; "" is the empty caption.')
    return captions


def _mixed(given: Sequence[str], model: Any) -> Any:
    """The users' tokens, averaged by their weights."""
    import numpy as np

    from jaxpo.config import Users
    from jaxpo.data.images.users import USERS, mixed, user_of

    if USERS not in model.about:
        raise ConfigError(
            f"--for-user: {model.path} was not trained with users who are known by pairs (loss ppd, rows without "
            "user_tokens of another encoder); leave it out."
        )
    users, config, tokens, weights = Users(**model.about[USERS]), model.config, [], []
    for words in given:
        file, _, weight = words.partition("=")
        try:
            weights.append(float(weight or 1.0))
        except ValueError:
            raise ConfigError(f"--for-user {words}: {weight!r} is no number; give FILE or FILE=WEIGHT.") from None
        tokens.append(user_of(Path(file), users, config.sample_size, config.in_channels))
    if not sum(weights) > 0:
        raise ConfigError("--for-user: the weights add up to nothing.")
    return mixed(np.stack(tokens), weights)


def _say_cut(captions: Sequence[str], model: Any, segments: int) -> None:
    """Beside the images: how many captions are longer than what is read of them."""
    from jaxpo.models.family import limits
    from jaxpo.sampling.images import cut_captions

    words = limits(model.config).context
    if cut := cut_captions(captions, model.tokenizer, segments, words):
        print(
            f"{cut} of {len(captions)} captions are cut: the model reads {segments} pieces of {words} tokens "
            "(--segments)",
            file=sys.stderr,
        )


def _negative(path: Path, config: Any) -> Any:
    from jaxpo.convert.model_io import load_model, read_config

    if read_config(path) != config:
        raise ConfigError(f"--negative {path}: has another architecture, or another noise schedule, than the model.")
    return load_model(path).params["model"]


def reward_of(name: str) -> Callable[[Any, Sequence[str]], Any]:
    """`(images [B, H, W, C] in [-1, 1], captions) -> [B]`.

    Raises:
      ConfigError: there is no such reward, file or function.
    """
    from jaxpo.corpora.scenes.rewards import REWARDS

    if name in REWARDS:
        return lambda images, captions: REWARDS[name](images)
    file, colon, function = name.rpartition(":")
    if not colon:
        raise ConfigError(
            f"--score {name}: there is no such reward; there are {', '.join(REWARDS)}, or FILE.py:FUNCTION."
            f"{did_you_mean(name, REWARDS)}"
        )
    found = getattr(load_module(Path(file)), function, None)
    if not callable(found):
        raise ConfigError(f"--score {name}: {file} has no function {function!r}.")
    reward: Callable[[Any, Sequence[str]], Any] = found
    return reward


def check_reward(name: str, reward: Callable[[Any, Sequence[str]], Any], shape: tuple[int, ...]) -> None:
    """Ask a reward about two grey images, before any is drawn; ConfigError unless it gives a number for each."""
    import numpy as np

    try:
        found = np.asarray(reward(np.zeros((2, *shape), np.float32), ("", "")), np.float64)
    except Exception as error:
        raise ConfigError(f"--score {name}: of two grey images it raised {type(error).__name__}: {error}") from error
    if found.shape != (2,):
        raise ConfigError(f"--score {name}: of two images it gave numbers {list(found.shape)}; give one for each.")


def _kept(
    folder: Path, captions: Sequence[str], drawn: Sequence[Any], rewards: Any, n: int, zoom: int | None
) -> list[dict[str, Any]]:
    """Write a PNG of every image, one of all, and images.jsonl; returns its rows."""
    import numpy as np
    from PIL import Image

    from jaxpo.sampling.images import as_bytes, grid_of

    folder.mkdir(parents=True, exist_ok=True)
    whole, texts = np.stack([d.pixels for d in drawn]), [captions[d.number] for d in drawn]
    scored = {name: np.asarray(reward(whole, texts), np.float64) for name, reward in rewards.items()}
    records = []
    for i, image in enumerate(drawn):
        name = f"{image.number:04d}-{image.sample:02d}.png"
        Image.fromarray(as_bytes(image.pixels)).save(folder / name)
        about = {"file": name, "caption": texts[i], "seed": image.seed, "sample": image.sample}
        records.append(about | {reward: float(values[i]) for reward, values in scored.items()})
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "images.jsonl").write_text(lines, encoding="utf-8")
    columns = n if n > 1 else max(1, round(len(drawn) ** 0.5))
    scale = max(1, 128 // whole.shape[1]) if zoom is None else zoom
    Image.fromarray(grid_of([as_bytes(d.pixels) for d in drawn], columns, scale=scale)).save(folder / "grid.png")
    return records
