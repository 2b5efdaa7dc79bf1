"""Chips that are not here, for XLA to compile for; tests skip where their compiler is not installed."""

import functools
import importlib.util
import os

import pytest

# What XLA asks of a device's description, of an H200 (openxla/xla, xla/backends/gpu/target_config/specs/h200.txtpb).
_H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 151397597184
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""


def device(platform):
    """A device to lower and compile for ("cuda": H200, "tpu": v5e); skips where its compiler is not installed."""
    return {"cuda": _cuda, "tpu": _tpu}[platform]()


@functools.cache
def _tpu():
    if not importlib.util.find_spec("libtpu"):
        pytest.skip("libtpu is not installed (constraints.txt has the version of each jax)")
    from jax.experimental import topologies

    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_ACCELERATOR_TYPE="v5litepod-4", TPU_WORKER_HOSTNAMES="localhost")
    return topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0]


@functools.cache
def _cuda():
    plugin = pytest.importorskip("jax_plugins.xla_cuda12", reason="jax-cuda12-plugin is not installed")
    from jax._src.lib import xla_client

    # The plugin's own start wants a driver; its compiler does not. There is no public name for this.
    if not xla_client._xla.pjrt_plugin_loaded("cuda"):
        xla_client.load_pjrt_plugin_dynamically("cuda", str(plugin._get_library_path()))
    if not xla_client._xla.pjrt_plugin_initialized("cuda"):
        xla_client._xla.initialize_pjrt_plugin("cuda")
    options = {"topology": "1x1x1", "target_config": _H200}
    return xla_client._xla.get_default_c_api_topology("cuda", "", options)._make_compile_only_devices()[0]
