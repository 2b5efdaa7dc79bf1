"""`jaxpo export MODEL OUT`: a model as transformers, vLLM and MLX load it, llama.cpp or diffusers, verified.

With `--adapter`: the adapter of a stage that was trained with lora, as PEFT, llama.cpp or diffusers loads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.errors import ConfigError

MAX_SHARD_SIZE = "5GB"
DESCRIPTION = "Write a model in a form that other programs load, and compare it numerically with what it came from."


def add_options(parser: Parser, *, dtype: bool = True) -> None:
    """Options of every command that writes a Hugging Face checkpoint."""
    if dtype:
        parser.add_argument(
            "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the tensors on disk"
        )
    split = f"larger models are split and indexed (default {MAX_SHARD_SIZE})"
    parser.add_argument("--max-shard-size", default=MAX_SHARD_SIZE, help=split)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    parser.add_argument("--no-verify", action="store_true", help="do not compare the files with the model")


def options_of(args: Any) -> dict[str, Any]:
    """The same options, as the functions that write a checkpoint take them."""
    return {
        "dtype": args.dtype,
        "max_shard_size": args.max_shard_size,
        "overwrite": args.overwrite,
        "verify": not args.no_verify,
    }


def main(argv: Sequence[str]) -> int:
    from jaxpo.convert.formats import DIFFUSERS, FORMATS, GGUF, HF, Options, table

    parser = Parser("export", f"{DESCRIPTION}\n\nformats:\n{described(FORMATS.values())}")
    parser.add_argument("model", type=Path, help="run directory, stage directory, HF export, or PEFT adapter")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--format", choices=tuple(FORMATS), default=HF, help="of the files; default hf")
    parser.add_argument(
        "--dtype", metavar="TYPE[,TYPE]", help="of the tensors on disk, default the format's first; gguf takes several"
    )
    add_options(parser, dtype=False)
    parser.add_argument(
        "--adapter", action="store_true", help="write the adapter alone: for PEFT, llama.cpp's --lora, diffusers"
    )
    parser.add_argument(
        "--base", help="with --adapter: base_model_name_or_path, where the base lies as an HF checkpoint"
    )
    parser.add_argument(
        "--python", metavar="PROGRAM", help="interpreter that has mlx-lm, onnxruntime-genai, executorch"
    )
    args = parser.parse(argv)
    chosen = FORMATS[args.format]
    dtypes = types_of(args, chosen)
    args.dtype = dtypes[0]
    if args.adapter:
        return {HF: write_adapter, GGUF: write_gguf_adapter, DIFFUSERS: write_lora}[args.format](args)

    from jaxpo.convert.model_io import load_model, near_tokenizer, read_heads, read_reader, read_retriever_of
    from jaxpo.models.heads import further_heads

    reader = read_reader(args.model)
    if reader is not None and args.format != HF:
        raise ConfigError(f"export: {args.model} is a reward model; --format {args.format} has no place for its head.")
    if reader is not None and not reader.is_scalar:
        return write_heads(load_model(args.model), reader, args)
    retriever = read_retriever_of(args.model)
    if retriever is not None and args.format == HF:
        return write_retriever(load_model(args.model), retriever, args)
    if heads := further_heads(dict.fromkeys(read_heads(args.model))):
        print(f"{args.out}: will not hold {heads}, which transformers cannot run; {args.model} does")
    if reader is not None:
        return write_reward(load_model(args.model), args)
    options = Options(dtypes, args.max_shard_size, args.overwrite, not args.no_verify, args.python)
    rows = chosen.write(args.model, args.out, options)
    without = "" if near_tokenizer(args.model) is not None else " (without a tokenizer: the model's directory has none)"
    print(f"{args.out}: exported{without}")
    for line in table(rows):
        print(line)
    return 0


def types_of(args: Any, chosen: Any) -> tuple[str, ...]:
    """What `--dtype` asks of the format; ConfigError for that or another option that would mean nothing."""
    from jaxpo.convert.formats import DIFFUSERS, GGUF, HF

    if args.base is not None and not args.adapter:
        raise ConfigError("export: --base names the base of an adapter; it needs --adapter.")
    dtypes: tuple[str, ...] = chosen.chosen(args.dtype.split(",") if args.dtype else ())
    if args.adapter and args.format not in (HF, GGUF, DIFFUSERS):
        raise ConfigError(
            f"export: --adapter is written for PEFT, llama.cpp or diffusers; --format {args.format} has none."
        )
    if args.python is not None and args.format in (HF, GGUF, DIFFUSERS):
        raise ConfigError(f"export: --format {args.format} is written here; leave out --python.")
    if args.adapter and len(dtypes) > 1:
        raise ConfigError("export: --adapter writes one file; give one --dtype.")
    if args.max_shard_size != MAX_SHARD_SIZE and (args.adapter or args.format != HF):
        what = "--adapter" if args.adapter else f"--format {args.format}"
        raise ConfigError(f"export: --max-shard-size: {what} writes no shards; leave it out.")
    return dtypes


def described(formats: Iterable[Any]) -> str:
    """The formats, a line each."""
    return "\n".join(f"  {each.name:6s} {each.about}: {', '.join(each.dtypes)}" for each in formats)


def write_reward(model: Any, args: Any) -> int:
    """Export a reward model as a sequence-classification checkpoint, and say how it is loaded."""
    from jaxpo.convert.card import facts_of
    from jaxpo.convert.reward_hf import export_reward

    own = {"tokenizer": model.tokenizer, "facts": facts_of(model.path, model.about)}
    report = export_reward(model.params, model.config, args.out, **own, **options_of(args))
    reached = f"max reward error {report['max_reward_error']:.2e}" if report else "not verified"
    print(f"{args.out}: reward model exported; {reached}")
    print(f"load it with AutoModelForSequenceClassification.from_pretrained({str(args.out)!r}, trust_remote_code=True)")
    return 0


def write_retriever(model: Any, retriever: Any, args: Any) -> int:
    """Export a retriever in the form of pylate or sentence-transformers, and say who loads it."""
    from jaxpo.convert.card import facts_of
    from jaxpo.convert.pylate import export_retriever, use_of

    if model.tokenizer is None:
        raise ConfigError(f"export: {args.model} has no tokenizer beside it, which a retriever's files hold.")
    own = {"tokenizer": model.tokenizer, "facts": facts_of(model.path, model.about)}
    report = export_retriever(model.params, model.config, args.out, retriever, **own, **options_of(args))
    reached = f"max vector error {report['max_vector_error']:.2e}" if report else "not verified"
    print(f"{args.out}: retriever exported; {reached}")
    print("\n".join(line for line in use_of(model.config, retriever) if line and not line.startswith("```")))
    return 0


def write_heads(model: Any, reader: Any, args: Any) -> int:
    """Export a reward model with heads of its own beside the model, and say which files they are."""
    from jaxpo.convert.card import facts_of
    from jaxpo.convert.heads_hf import HEADS, READING, export_heads

    facts = facts_of(model.path, model.about)
    own = {"tokenizer": model.tokenizer, "generation": model.generation, "facts": facts}
    report = export_heads(model.params, model.config, args.out, reader, **own, **options_of(args))
    print(f"{args.out}: reward model exported{reached(report)}")
    print(f"its heads are in {HEADS}, read by {reader.method.INFO.name} as {READING} says; see docs/reward_models.md")
    return 0


def write_adapter(args: Any) -> int:
    """Export the adapter of the stage, verify it with its base, and say which base it needs."""
    from jaxpo.convert.card import facts_of
    from jaxpo.convert.folder import is_checkpoint
    from jaxpo.convert.peft import export_peft
    from jaxpo.stages.adapter import load_adapter

    found = load_adapter(args.model)
    base = found.base.path
    base_name = args.base or (str(base) if base is not None and is_checkpoint(base) else None)
    report = export_peft(
        found.params,
        found.lora,
        found.base.params["model"],
        found.base.config,
        args.out,
        merged=found.result.params["model"],
        base_name=base_name,
        dtype=args.dtype,
        overwrite=args.overwrite,
        verify=not args.no_verify,
        facts=facts_of(found.result.path, found.result.about),
    )
    print(f"{args.out}: adapter of rank {found.lora.rank} exported{reached(report)}")
    if base_name is None:
        print(f"its base is {base}; `jaxpo export {base} DIR` writes that for transformers")
    return 0


def write_gguf_adapter(args: Any) -> int:
    """Export the adapter of the stage for llama.cpp's `--lora`, verify it on its base, and say which base it needs."""
    from jaxpo.convert.formats import table
    from jaxpo.convert.gguf.adapter import export_adapter
    from jaxpo.stages.adapter import load_adapter

    if args.base is not None:
        raise ConfigError("export: --base is written into PEFT's adapter_config.json; a GGUF adapter names no base.")
    found = load_adapter(args.model)
    verify = not args.no_verify
    row = export_adapter(found, args.out, dtype=args.dtype, overwrite=args.overwrite, verify=verify)
    print(f"{args.out}: adapter of rank {found.lora.rank} exported")
    for line in table([row]):
        print(line)
    print(f"run it with: llama-cli -m BASE.gguf --lora {args.out / row.file}; its base is {found.base.path}")
    return 0


def write_lora(args: Any) -> int:
    """Export the adapter of the stage for diffusers' `load_lora_weights`."""
    from jaxpo.convert.diffusers.lora import export_lora
    from jaxpo.stages.adapter import load_adapter

    if args.base is not None:
        raise ConfigError("export: --base is written into PEFT's adapter_config.json; diffusers' file names no base.")
    found = load_adapter(args.model)
    options = {"dtype": args.dtype, "overwrite": args.overwrite, "verify": not args.no_verify}
    config: Any = found.base.config
    file = export_lora(found.params, found.lora, config, args.out, **options)
    print(f"{file}: adapter of rank {found.lora.rank} exported; its base is {found.base.path}")
    print(f"load it with pipeline.load_lora_weights({str(args.out)!r})")
    return 0


def reached(report: dict[str, Any]) -> str:
    """What the comparison of the files with the model gave."""
    if not report:
        return ", not verified"
    return f"; max log-prob error {report['max_logprob_error']:.2e} nats, KL {report['kl']:.2e}"
