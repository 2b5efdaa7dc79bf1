"""mergekit's YAML: what is planned for every leaf, and what is refused by name."""

from pathlib import Path

import pytest

from jaxpo.errors import ConfigError
from jaxpo.merge.mergekit.plan import plan_document
from jaxpo.merge.mergekit.settings import PARAMETERS
from jaxpo.merge.mergekit.yaml import read_document
from jaxpo.merge.methods import ALIASES, METHODS, DareTies, Della, Karcher, Passthrough, Slerp, Soup, Ties

NAMES = [
    "model.embed_tokens.weight",
    *(
        f"model.layers.{i}.{part}.weight"
        for i in range(5)
        for part in ("feed_forward.w1", "operator_norm", "self_attn.q_proj")
    ),
    "model.embedding_norm.weight",
]


def plan(tmp_path: Path, text: str, names=NAMES):
    file = tmp_path / "merge.yaml"
    file.write_text(text)
    document = read_document(file)
    return plan_document(document, dict.fromkeys(document.models, names))


def by_name(plan):
    return {leaf.name: leaf for leaf in plan.leaves}


def refused(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan(tmp_path, text)
    return [p.removeprefix(f"{tmp_path / 'merge.yaml'}: ") for p in caught.value.problems]


def test_every_method_of_ours_is_one_of_mergekits_but_dlers():
    assert {ALIASES.get(name, name) for name in PARAMETERS} == set(METHODS) - {"update_selective"}


def test_linear(tmp_path):
    found = plan(
        tmp_path,
        """
models:
  - model: a
    parameters: {weight: 1}
  - model: b
    parameters: {weight: 3.0}
merge_method: linear
dtype: float32
out_dtype: bfloat16
""",
    )
    assert [leaf.name for leaf in found.leaves] == NAMES
    assert all(leaf.method == Soup() and leaf.weights == (0.25, 0.75) and leaf.base is None for leaf in found.leaves)
    assert (found.dtype, found.layers, found.lines) == ("bfloat16", None, ("  0.2500 x a", "  0.7500 x b"))


def test_gradients_filters_and_scopes(tmp_path):
    found = plan(
        tmp_path,
        """
base_model: base
models:
  - model: base
  - model: a
    parameters:
      density: [1.0, 0.5]
      weight:
        - filter: q_proj
          value: [0, 1e-1, 1]
        - value: 0.5
  - model: b
    parameters:
      weight: 0.25
merge_method: ties
parameters:
  density:
    - filter: feed_forward
      value: 0.125
  lambda: 0.5
  normalize: false
  int8_mask: true
""",
    )
    leaves = by_name(found)
    q = [leaves[f"model.layers.{i}.self_attn.q_proj.weight"] for i in range(5)]
    assert [leaf.weights[0] for leaf in q] == pytest.approx([0, 0.05, 0.1, 0.55, 1])
    assert {leaf.weights[1] for leaf in q} == {0.25}
    assert [leaf.method.density for leaf in q] == [(1, 1), (0.875, 1), (0.75, 1), (0.625, 1), (0.5, 1)]
    w1 = leaves["model.layers.4.feed_forward.w1.weight"]
    assert w1.method == Ties(density=(0.5, 0.125), scale=0.5, normalize=False)
    assert w1.weights == (0.5, 0.25)
    assert w1.parts == (("a", w1.name), ("b", w1.name))
    assert w1.base == ("base", w1.name)
    # What belongs to no layer stands at the beginning of a gradient.
    assert leaves["model.embedding_norm.weight"].method.density == (1.0, 1.0)
    assert found.lines == ("    base   base", "0.0000 .. 1.0000 x a", "  0.2500 x b")


def test_slerp_starts_from_the_base(tmp_path):
    found = plan(
        tmp_path,
        """
slices:
  - sources:
      - {model: a, layer_range: [0, 5]}
      - {model: b, layer_range: [0, 5]}
merge_method: slerp
base_model: b
parameters:
  t:
    - filter: self_attn
      value: [0, 1]
    - value: 0.5
""",
    )
    q = by_name(found)["model.layers.1.self_attn.q_proj.weight"]
    assert (q.method, [m for m, _ in q.parts], q.base) == (Slerp(0.25), ["b", "a"], None)
    assert found.layers == tuple(("a", i) for i in range(5))


def test_slices_are_stacked(tmp_path):
    found = plan(
        tmp_path,
        """
slices:
  - sources:
      - model: a
        layer_range: [0, 3]
  - sources:
      - model: b
        layer_range: [1, 5]
        parameters:
          scale:
            - {filter: q_proj, value: 0.0}
            - value: 1.0
merge_method: passthrough
""",
    )
    leaves = by_name(found)
    assert found.layers == (("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3), ("b", 4))
    q = leaves["model.layers.3.self_attn.q_proj.weight"]
    assert (q.method, q.parts) == (Passthrough(scale=0.0), (("b", "model.layers.1.self_attn.q_proj.weight"),))
    assert leaves["model.layers.6.operator_norm.weight"].parts == (("b", "model.layers.4.operator_norm.weight"),)
    assert leaves["model.embed_tokens.weight"].parts[0][0] == "a"
    assert leaves["model.embedding_norm.weight"].parts[0][0] == "b"
    assert len(found.leaves) == 2 + 7 * 3


def test_a_model_listed_twice_has_the_parameters_of_each_place(tmp_path):
    twice = """
- {model: a, parameters: {weight: 1, density: 0.25}}
- {model: b, parameters: {weight: 2, density: 0.5}}
- {model: a, parameters: {weight: 3, density: 0.75}}
"""
    found = plan(tmp_path, f"models:{twice}base_model: o\nmerge_method: dare_ties")
    for leaf in found.leaves:
        assert [model for model, _ in leaf.parts] == ["a", "b", "a"]
        assert leaf.weights == (1.0, 2.0, 3.0)
        assert leaf.method.density == (0.25, 0.5, 0.75)
    # Two stretches of one model: only what belongs to no layer is the same leaf in both places.
    slices = """
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: 1}}
      - {model: a, layer_range: [3, 5], parameters: {weight: 3}}
merge_method: linear
"""
    found = plan(tmp_path, slices)
    assert all(leaf.weights == (0.25, 0.75) for leaf in found.leaves)
    layer = by_name(found)["model.layers.1.operator_norm.weight"]
    assert layer.parts == (("a", "model.layers.1.operator_norm.weight"), ("a", "model.layers.4.operator_norm.weight"))
    # The base counts as the base alone, wherever it is listed.
    for leaf in plan(tmp_path, f"models:{twice}base_model: b\nmerge_method: dare_ties").leaves:
        assert (leaf.base[0], leaf.weights, leaf.method.density) == ("b", (1.0, 3.0), (0.25, 0.75))


def test_mergekits_units(tmp_path):
    start = "base_model: o\nmodels:\n  - model: a\n    parameters: {weight: 1, density: 0.5}\nmerge_method: "
    assert plan(tmp_path, start + "dare_ties").leaves[0].method == DareTies(density=(0.5,), rescale="l1")
    found = plan(tmp_path, start + "della\nparameters: {rescale: false, epsilon: 0.1}").leaves[0].method
    assert found == Della(density=(0.5,), epsilon=(0.2,), rescale="none")
    karcher = "models: [{model: a}, {model: b}]\nmerge_method: karcher\nparameters: {max_iter: 3}"
    assert plan(tmp_path, karcher).leaves[0].method == Karcher(max_iter=3)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            "models: [{model: a}]\nmerge_method: arcee_fusion",
            [
                "merge_method: 'arcee_fusion' is not implemented. Known: linear, slerp, nuslerp, task_arithmetic, "
                "ties, dare_linear, dare_ties, della_linear, della, breadcrumbs, breadcrumbs_ties, model_stock, "
                "karcher, sce, passthrough."
            ],
        ),
        (
            "models: [{model: a}]\nmerge_method: dare",
            None,
        ),
        (
            "models: [{model: a, revision: x}]\nmerge_method: linear\ntokenizer_source: union\nbase: b\n"
            "dtype: float16\nparameters: {weight: 1, wieght: 2, t: 1}",
            [
                "tokenizer_source: is not implemented (all models must have the same tokenizer, which the result "
                "gets). Known: merge_method, models, slices, base_model, parameters, dtype, out_dtype.",
                "base: is not implemented. Did you mean base_model? "
                "Known: merge_method, models, slices, base_model, parameters, dtype, out_dtype.",
                "dtype: 'float16' cannot be written. Known: float32, bfloat16.",
                "parameters.wieght: linear has no such parameter. Did you mean weight? Known: weight, normalize.",
                "parameters.t: linear has no such parameter. Known: weight, normalize.",
                "models[0].revision: is not implemented. Known: model, parameters.",
            ],
        ),
        (
            "models: [{model: a, parameters: {t: 0.5}}]\nmerge_method: slerp\nparameters: {t: [0, x]}",
            [
                "parameters.t: expected a number, got 'x'.",
                "models[0].parameters.t: holds for all models together; give it under the top-level parameters.",
            ],
        ),
        (
            "models: [{model: a, parameters: {weight: 1}}, {model: b}]\nmerge_method: linear",
            ["parameters.weight: is missing for b; linear needs one per model."],
        ),
        (
            "models: [{model: a, parameters: {weight: 1, density: 1.5}}]\nbase_model: b\nmerge_method: ties",
            ["density: 1.5 must lie in (0, 1]; it is the share of a task vector's entries that is kept."],
        ),
        (
            "models: [{model: a, parameters: {weight: 1}}]\nmerge_method: ties",
            ["base: ties adds to a base what the models learned since; name that model."],
        ),
        (
            "models: [{model: a}, {model: b}]\nmerge_method: slerp\nparameters: {t: 0.5}",
            ["base_model: slerp starts from it; name one of the two models."],
        ),
        (
            "slices: [{sources: [{model: a, layer_range: [0, 9]}]}]\nmerge_method: passthrough",
            ["slices[0].sources[0].layer_range: ends at 9, but a has 5 layers."],
        ),
        (
            "slices:\n- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}]\n"
            "  residual_weight: 1\nmerge_method: linear\nparameters: {weight: 1, normalize: 1}",
            [
                "parameters.normalize: expected true or false, got 1.",
                "slices[0].residual_weight: is not implemented. Known: sources, base_model, parameters.",
                "slices[0].sources: their layer ranges have different lengths (2, 3).",
            ],
        ),
        ("merge_method: linear", ["models: give exactly one of models and slices."]),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path, text, problems):
    found = refused(tmp_path, text)
    if problems is None:
        assert "Did you mean" in found[0]
    else:
        assert found == problems


def test_files_that_are_no_yaml(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_document(tmp_path / "gone.yaml")
    file = tmp_path / "merge.yaml"
    file.write_text("models: [")
    with pytest.raises(ConfigError, match=r"is not valid YAML .*line 1"):
        read_document(file)
    file.write_text("- a")
    with pytest.raises(ConfigError, match="expected a mapping"):
        read_document(file)
    file.write_text("merge_method: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        read_document(file)
