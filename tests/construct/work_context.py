"""What a work stage gets to use, around one model."""

from dataclasses import replace

from jaxpo.construct.context import WorkContext
from jaxpo.objectives.encode import Scorer


def context_of(model, folder, **changes):
    """The context of a stage that keeps its files in `folder`; every earlier stage left `model`."""
    folder.mkdir(parents=True, exist_ok=True)
    context = WorkContext(
        folder=folder,
        run_dir=model.path.parents[1],
        seed=3,
        tokenizer=model.tokenizer,
        config=model.config,
        scorer=Scorer(model.config),
        say=lambda text: None,
        check=lambda: None,
        load=lambda path: model,
        resolve=tuple,
        stages=("sft",),
    )
    return replace(context, **changes)
