"""What tower and connector cost per patch: operations, and values that stay for the backward pass. Loads no jax."""

from __future__ import annotations

from collections.abc import Mapping

from jaxpo.models.lfm2_vl.config import FACTOR, LFM2VLConfig
from jaxpo.models.parts import Kept, Part, PatchLoad, Tower

VISION, CONNECTOR = "vision/", "connector/"


def patch_parts(config: LFM2VLConfig, load: PatchLoad) -> tuple[Part, ...]:
    """The tower's work, of each patch, and the connector's, of each `FACTOR^2` of them.

        mixing = 4 D c        of a layer, D the width and c the patches that one attends to: all of its piece

    The position table is a matrix: its grid is resized by a product. Recorded features spare the tower.
    """
    tower = config.vision
    mixing = 4.0 * tower.hidden_size * load.context * tower.num_hidden_layers
    return (
        Part((VISION,), _matrices(config, VISION), mixing, 0.0 if load.recorded else load.per_token),
        Part((CONNECTOR,), _matrices(config, CONNECTOR), rate=load.per_token / FACTOR**2),
    )


def _matrices(config: LFM2VLConfig, place: str) -> Mapping[str, float]:
    from jaxpo.models.lfm2_vl.table import param_table
    from jaxpo.models.spec import leaves

    return {
        path: float(p.size) for path, p in leaves(param_table(config)) if path.startswith(place) and len(p.shape) > 1
    }


def patch_kept(config: LFM2VLConfig, remat: str, tensor: int, tower: Tower) -> Kept:
    """Values per patch, counted from the products of a layer, with D the tower's width, F of its MLP.

        none      9 D + 4 F      both norms and what they divide by, queries, keys, values, what attention found, the
                                 sum after it; fc1 and three steps of the tanh form of GELU
        others    D              the input

    A tower that is not trained keeps nothing, as no gradient passes it, and holds of the layer at work its input beside
    what attention reads and finds, or the two widths of its MLP; one whose features are recorded does not run. Of four
    patches the connector keeps its norm's output, twice 4 D, 3 of its width and 2 of the language model's.

    Args:
      tensor: devices among which products are split.
    """
    d, f = float(config.vision.hidden_size), float(config.vision.intermediate_size)
    whole = 5 * d + (4 * d + 4 * f) / tensor
    connector = 2 * d + (3 * config.projector_hidden_size + 2 * config.hidden_size) / FACTOR**2
    if tower == "recorded":
        return Kept(connector, 0.0)
    if tower == "fixed":
        return Kept(connector, d + max(4 * d, 2 * f) / tensor)
    layer = whole if remat == "none" else d
    return Kept(config.vision.num_hidden_layers * layer + connector, whole if remat == "none" else 2 * whole)
