"""`jaxpo import FOLDER OUT`: a Hugging Face checkpoint becomes a jaxpo model directory, checked both ways."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.errors import CheckpointError


def main(argv: Sequence[str]) -> int:
    parser = Parser("import", "Read a Hugging Face LFM2 checkpoint (safetensors only) into a jaxpo model directory.")
    parser.add_argument("folder", type=Path, help="folder with config.json and model.safetensors (or shards)")
    parser.add_argument("out", type=Path, help="directory to make; usable as --model-from, init_from, or for generate")
    parser.add_argument("--no-verify", action="store_true", help="do not run the files through the independent forward")
    args = parser.parse(argv)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise CheckpointError(f"{args.out}: exists already; choose another directory.")
    if not args.folder.is_dir():
        raise CheckpointError(f"{args.folder}: there is no such folder.")

    from jaxpo.convert.hf import import_hf
    from jaxpo.convert.model_io import TOKENIZER, load_model, save_model
    from jaxpo.data.tokens.chat_templates import announcements
    from jaxpo.data.tokens.tokenizer import Tokenizer

    params, config = import_hf(args.folder)
    if not args.no_verify:
        report = verified(params, config, args.folder)
        print(f"verified: max log-prob error {report['max_logprob_error']:.2e} nats, KL {report['kl']:.2e}")
    about = {"stage": "import", "trained_on": f"a Hugging Face checkpoint ({args.folder.resolve().name})"}
    save_model(args.out, {"model": params}, config, about)
    if (args.folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.load(args.folder)
        tokenizer.save(args.out / TOKENIZER)
        for line in announcements(tokenizer):
            print(line)
    count = check_equal(params, load_model(args.out).params["model"], args.out)
    print(f"{args.out}: {count:,} parameters, read back bit for bit")
    return 0


def verified(params: Any, config: Any, folder: Path) -> dict[str, Any]:
    """Compare the parameters with the files as another implementation reads them; leaves the folder untouched."""
    from jaxpo.convert.verify import verify

    with tempfile.TemporaryDirectory() as scratch:
        for file in folder.resolve().iterdir():
            if file.name != "verification.json":
                (Path(scratch) / file.name).symlink_to(file)
        return verify(params, config, scratch)


def check_equal(ours: Any, stored: Any, out: Path) -> int:
    """Number of parameters, after every stored leaf was found equal to the imported one."""
    import jax
    import numpy as np

    count = 0
    pairs = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(stored), strict=True)
    for (path, a), b in pairs:
        if not np.array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8)):
            raise CheckpointError(f"{out}: {jax.tree_util.keystr(path)} differs from what was imported; remove {out}.")
        count += a.size
    return count
