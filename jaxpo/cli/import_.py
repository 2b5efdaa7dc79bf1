"""`jaxpo import FOLDER OUT`: a Hugging Face checkpoint or adapter becomes a jaxpo model, checked both ways."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.errors import CheckpointError, no_folder


def main(argv: Sequence[str]) -> int:
    parser = Parser("import", "Read a Hugging Face LFM2 checkpoint (safetensors only) into a jaxpo model directory.")
    parser.add_argument("folder", type=Path, help="checkpoint (config.json and safetensors) or PEFT adapter")
    parser.add_argument("out", type=Path, help="directory to make; usable as --model-from, init_from, or for generate")
    parser.add_argument("--no-verify", action="store_true", help="do not run the files through the independent forward")
    args = parser.parse(argv)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise CheckpointError(f"{args.out}: exists already; choose another directory.")
    if not args.folder.is_dir():
        raise CheckpointError(f"{no_folder(args.folder)}.")

    from jaxpo.convert.adapter_folder import describe, is_adapter
    from jaxpo.convert.generation import keep_generation
    from jaxpo.convert.hf import folder_in_making, import_hf
    from jaxpo.convert.model_io import TOKENIZER, import_record, load_model, near_generation, near_tokenizer, save_model
    from jaxpo.convert.reward_hf import is_reward
    from jaxpo.data.chat.template_choice import announcements

    if is_reward(args.folder):
        raise CheckpointError(
            f"{args.folder}: is a reward model, which is read as it is; name it where one is asked for."
        )
    if is_adapter(args.folder):
        print(describe(args.folder))
    params, config = import_hf(args.folder)
    if not args.no_verify:
        report = verified(params, config, args.folder)
        print(f"verified: max log-prob error {report['max_logprob_error']:.2e} nats, KL {report['kl']:.2e}")
    tokenizer = near_tokenizer(args.folder)
    # An import that was interrupted must not look finished: a model without its tokenizer can be read as well.
    with folder_in_making(args.out, overwrite=False) as partial:
        save_model(partial, {"model": params}, config, import_record(args.folder))
        keep_generation(partial, near_generation(args.folder))
        if tokenizer is not None:
            tokenizer.save(partial / TOKENIZER)
        count = check_equal(params, load_model(partial).params["model"], args.out)
    for line in announcements(tokenizer) if tokenizer is not None else ():
        print(line)
    print(f"{args.out}: {count:,} parameters, read back bit for bit")
    return 0


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
