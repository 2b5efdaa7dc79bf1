"""The table of chips: names as JAX gives them, figures that belong together, and what the user says before it."""

import pytest

from jaxpo.train.chips import CHIPS, find_chip, peak_flops


def test_a_device_is_known_by_its_whole_name():
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989.4e12
    assert peak_flops("NVIDIA A100-SXM4-40GB", "float32") == 156e12
    assert find_chip("TPU v5p") is find_chip("TPU v5")
    assert find_chip("TPU v5e") is find_chip("TPU v5 lite")
    for part in ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA H100", "cpu", ""):
        assert find_chip(part) is None
        assert peak_flops(part, "bfloat16") is None


def test_the_users_peak_stands_before_the_tables():
    assert peak_flops("NVIDIA H200", "bfloat16", 500.0) == 500e12
    assert peak_flops("cpu", "float32", 0.25) == 0.25e12


@pytest.mark.parametrize("kind", CHIPS)
def test_figures_belong_together(kind):
    """Bandwidth and products by the operations per byte that such chips have; a slip of a thousand shows."""
    chip = CHIPS[kind]
    assert 8e9 <= chip.memory <= 2e11
    assert 3e11 <= chip.bandwidth <= 1e13
    assert 10 < chip.bfloat16 / chip.bandwidth < 700
    ratio = chip.bfloat16 / chip.float32
    assert ratio == 1 or ratio == pytest.approx(2, rel=0.03)


def test_tpus_agree_with_jax():
    """Per device as JAX counts them; jax's own table is private, so this is skipped where it has moved."""
    tpu_info = pytest.importorskip("jax._src.pallas.mosaic.tpu_info")
    if not hasattr(tpu_info, "get_tpu_info_for_chip"):
        pytest.skip("jax's table of TPUs has moved")
    cores = {"TPU v2": 1, "TPU v3": 1, "TPU7x": 1, "TPU v4": 2, "TPU v5": 2, "TPU v5 lite": 1, "TPU v6 lite": 1}
    for kind, n in cores.items():
        version = tpu_info.chip_version_from_device_kind(kind)
        theirs, ours = tpu_info.get_tpu_info_for_chip(version, n), CHIPS[kind]
        assert ours.bfloat16 == pytest.approx(n * theirs.bf16_ops_per_second, rel=0.01), kind
        assert ours.memory == pytest.approx(n * theirs.hbm_capacity_bytes, rel=0.02), kind
