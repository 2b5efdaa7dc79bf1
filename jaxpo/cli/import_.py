"""`jaxpo import MODEL OUT`: a Hugging Face checkpoint or adapter, a pipeline of diffusers, or a GGUF file, becomes a
jaxpo model, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.errors import CheckpointError, no_folder


def main(argv: Sequence[str]) -> int:
    parser = Parser("import", "Read a checkpoint (safetensors, diffusers or GGUF) into a jaxpo model directory.")
    parser.add_argument(
        "folder",
        type=Path,
        help="checkpoint (config.json, safetensors), PEFT adapter, pipeline of diffusers, or FILE.gguf",
    )
    parser.add_argument("out", type=Path, help="directory to make; usable as --model-from, init_from, or for generate")
    parser.add_argument("--no-verify", action="store_true", help="do not run the files through the independent forward")
    args = parser.parse(argv)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise CheckpointError(f"{args.out}: exists already; choose another directory.")
    if is_gguf_file(args.folder):
        return import_gguf_file(args)
    if not args.folder.is_dir():
        raise CheckpointError(f"{no_folder(args.folder)}.")

    from jaxpo.convert.adapter_folder import describe, is_adapter
    from jaxpo.convert.diffusers.files import is_pipeline
    from jaxpo.convert.folder import corrected
    from jaxpo.convert.hf import import_hf
    from jaxpo.convert.model_io import import_record, near_generation, near_tokenizer
    from jaxpo.convert.reward_hf import is_reward

    if is_reward(args.folder):
        raise CheckpointError(
            f"{args.folder}: is a reward model, which is read as it is; name it where one is asked for."
        )
    if is_pipeline(args.folder):
        return import_pipeline(args)
    if is_adapter(args.folder):
        print(describe(args.folder))
    for line in corrected(args.folder):
        print(line)
    params, config = import_hf(args.folder)
    if not args.no_verify:
        report = verified(params, config, args.folder)
        print(f"verified: max log-prob error {report['max_logprob_error']:.2e} nats, KL {report['kl']:.2e}")
    about, tokenizer = import_record(args.folder), near_tokenizer(args.folder)
    keep(args.out, params, config, about, tokenizer, near_generation(args.folder))
    return 0


def is_gguf_file(path: Path) -> bool:
    """Whether a path means a GGUF file; loads nothing."""
    return path.is_file() and path.suffix.lower() == ".gguf"


def import_gguf_file(args: Any) -> int:
    """Import a GGUF file; quantised weights are those that llama.cpp computes with, in float32."""
    from jaxpo.convert.gguf.kinds import KINDS
    from jaxpo.convert.gguf.read import import_gguf
    from jaxpo.convert.gguf.verify import compare_outputs

    params, found = import_gguf(args.folder)
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items())
    print(f"{args.folder}: tensors of types {kinds}")
    if set(found.kinds) - {"F32", "F16", "BF16"}:
        print("its weights are quantised: the model has the rounded ones, and no training brings back the others")
    if not args.no_verify:
        # Their types decide how far llama.cpp is off: it rounds what it multiplies quantised weights with.
        exact = set(found.kinds) == {"F32"}
        report = compare_outputs(found, params, found.config, KINDS["f32" if exact else "q4_0"], imported=True)
        said = f"max log-prob error {report['max_logprob_error']:.2e} nats, KL {report['kl']:.2e}"
        print(f"verified by {report['by']}: {said}")
    about = {"stage": "import", "trained_on": f"a GGUF file ({args.folder.name})"}
    keep(args.out, params, found.config, about, found.tokenizer, found.generation)
    return 0


def import_pipeline(args: Any) -> int:
    """Import the model of a pipeline of diffusers, and say what else there was."""
    from jaxpo.convert.diffusers.read import notes
    from jaxpo.convert.diffusers.verify import compare_outputs
    from jaxpo.convert.hf import import_hf
    from jaxpo.convert.model_io import import_record, near_tokenizer

    for note in notes(args.folder):
        print(f"{args.folder}: {note}")
    config: Any
    params, config = import_hf(args.folder)
    if not args.no_verify:
        report = compare_outputs(args.folder, params, config)
        print(report if isinstance(report, str) else f"verified by diffusers: max error {report['max_error']:.2e}")
    keep(args.out, params, config, import_record(args.folder), near_tokenizer(args.folder), None)
    return 0


def keep(out: Path, params: Any, config: Any, about: Any, tokenizer: Any, generation: Any) -> None:
    """Write the model under its final name, once it is complete and was read back."""
    from jaxpo.convert.generation import keep_generation
    from jaxpo.convert.hf import folder_in_making
    from jaxpo.convert.model_io import TOKENIZER, load_model, save_model
    from jaxpo.data.chat.template_choice import announcements
    from jaxpo.models.family import family

    # An import that was interrupted must not look finished: a model without its tokenizer can be read as well.
    with folder_in_making(out, overwrite=False) as partial:
        save_model(partial, {"model": params}, config, about)
        keep_generation(partial, generation)
        if tokenizer is not None:
            tokenizer.save(partial / TOKENIZER)
        count = check_equal(params, load_model(partial).params["model"], out)
    chats = family(config).denoise is None
    for line in announcements(tokenizer, chats=chats) if tokenizer is not None else ():
        print(line)
    print(f"{out}: {count:,} parameters, read back bit for bit")


def verified(params: Any, config: Any, folder: Path) -> dict[str, Any]:
    """Compare the parameters with the files as another implementation reads them; leaves the folder untouched."""
    from jaxpo.convert.adapter_folder import is_adapter
    from jaxpo.convert.verify import check_errors, compare_files

    report = compare_files(params, config, folder, transformers=False if is_adapter(folder) else None)
    check_errors(report, folder)
    return report


def check_equal(ours: Any, stored: Any, out: Path) -> int:
    """Number of parameters, after every stored leaf was found equal to the imported one."""
    import jax
    import numpy as np

    count = 0
    pairs = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(stored), strict=True)
    for (path, a), b in pairs:
        if not np.array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8)):
            raise CheckpointError(f"{out}: {jax.tree_util.keystr(path)} differs from what was imported.")
        count += a.size
    return count
