"""What a GPU or a TPU asks of a machine: known before gigabytes are installed for it, and looked at again afterwards.

Standard library only, and syntax that Python 3.7 can still read, as in pythons.py. What each needs is from JAX's
installation guide (drivers, compute capability) and from the tags of the wheels that constraints.txt names.
"""

from __future__ import annotations

import glob
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping

from pythons import BootstrapError, dotted

NAMES = ("cuda13", "cuda12", "tpu")
MACHINES = {"cuda13": ("x86_64", "aarch64"), "cuda12": ("x86_64", "aarch64"), "tpu": ("x86_64",)}
DRIVERS = {"cuda13": 580, "cuda12": 525}
CAPABILITIES = {"cuda13": (7, 5), "cuda12": (5, 2)}
GLIBC_OF_TPU = (2, 31)
WITHOUT = "Without --accelerator it runs on the CPU."
LOOK = "import jax; print('\\n'.join(f'{d.platform} {d.device_kind}' for d in jax.local_devices()))"
SECONDS = 300
QUERY = "--query-gpu=name,driver_version,compute_cap"
# Where WSL2 keeps it, which is not always on the path.
WSL_SMI = "/usr/lib/wsl/lib/nvidia-smi"
# Of the chips on the PCI bus, or the ways in which a virtual machine or a container is given them.
TPU_FILES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
OF_GPU = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "XLA_FLAGS")
OF_TPU = ("TPU_", "LIBTPU_", "PJRT_", "MEGASCALE_")


def refuse(accelerator: str, environ: Mapping[str, str] = os.environ) -> None:
    """BootstrapError where this accelerator cannot be used, with what is missing and what to do; installs nothing."""
    if accelerator not in NAMES:
        hint = " An NVIDIA GPU is cuda13." if accelerator in ("cuda", "gpu", "nvidia") else ""
        raise BootstrapError(f"--accelerator {accelerator}: expected {', '.join(NAMES)}.{hint}")
    problem = of_platform(accelerator, platform.system(), platform.machine(), platform.libc_ver())
    asked = environ.get("JAX_PLATFORMS", "")
    if problem is None and asked and not set(asked.split(",")) & platforms(accelerator):
        problem = f"JAX_PLATFORMS is {asked}, so that jax would not use it: unset it."
    if problem is None:
        problem = of_tpu() if accelerator == "tpu" else of_gpus(accelerator, nvidia_smi())
    if problem is not None:
        raise BootstrapError(f"--accelerator {accelerator}: {problem}")


def platforms(accelerator: str) -> set[str]:
    """The names that JAX_PLATFORMS may call it by."""
    return {"tpu"} if accelerator == "tpu" else {"cuda", "gpu"}


def of_platform(accelerator: str, system: str, machine: str, libc: tuple[str, str]) -> str | None:
    """What stands against it where no wheels exist: the system, the processor, the C library."""
    wanted = MACHINES[accelerator]
    if system != "Linux" or machine not in wanted:
        return f"its wheels are for Linux on {' and '.join(wanted)}; this is {system} on {machine}. {WITHOUT}"
    if accelerator == "tpu" and libc[0] == "glibc" and numbers(libc[1]) < GLIBC_OF_TPU:
        return (
            f"libtpu needs glibc {dotted(GLIBC_OF_TPU)} or later, this system has {libc[1]}: use a newer TPU VM image."
        )
    return None


def nvidia_smi() -> tuple[int, str] | None:
    """Exit status and output of nvidia-smi, one line per GPU; None where there is none."""
    command = shutil.which("nvidia-smi") or shutil.which(WSL_SMI)
    if command is None:
        return None
    try:
        done = subprocess.run(
            [command, QUERY, "--format=csv,noheader"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout.decode(errors="replace").strip()


def of_gpus(accelerator: str, told: tuple[int, str] | None) -> str | None:
    """What stands against it by the driver's own word: no driver, no GPU, one too old."""
    needed = DRIVERS[accelerator]
    if told is None:
        return (
            f"there is no nvidia-smi. Install NVIDIA's driver, version {needed} or later, and start a container with "
            f"its GPUs (--gpus all). {WITHOUT} To install where no GPU is, as for an image: docs/accelerators.md."
        )
    status, text = told
    rows = [[part.strip() for part in line.split(",")] for line in text.splitlines()]
    if status or not rows or any(len(row) < 3 for row in rows):
        return f"nvidia-smi lists no GPU that can be used: {text or 'nothing'}. Once it does, run this again."
    driver = rows[0][1]
    if numbers(driver)[:1] < (needed,):
        older = accelerator == "cuda13" and numbers(driver)[:1] >= (DRIVERS["cuda12"],)
        remedy = "; or take --accelerator cuda12, which this one serves" if older else ""
        return f"it needs NVIDIA's driver {needed} or later, this is {driver}: install a newer one{remedy}."
    least = CAPABILITIES[accelerator]
    if all(numbers(row[2]) < least for row in rows):
        remedy = " --accelerator cuda12 reaches down to 5.2." if accelerator == "cuda13" else f" {WITHOUT}"
        seen = ", ".join(f"{row[0]} ({row[2]})" for row in rows)
        return f"it needs compute capability {dotted(least)} or later; found: {seen}.{remedy}"
    return None


def of_tpu(files: tuple[str, ...] = TPU_FILES) -> str | None:
    """What stands against it where the system shows no chip."""
    if any(glob.glob(pattern) for pattern in files):
        return None
    return (
        f"this machine shows no TPU ({' or '.join(files)}): run it on a TPU VM, and in a container with its chips "
        f"(--privileged). {WITHOUT}"
    )


def numbers(text: str) -> tuple[int, ...]:
    """ "580.65.06" -> (580, 65, 6); what is no number ends it."""
    found = []
    for part in text.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def look(python: str, accelerator: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The devices that jax sees on this host, as "platform kind"; BootstrapError when none is the accelerator's.

    jax is told to use nothing else: by itself it would fall back to the CPU with a warning.
    """
    environment = dict(environ, JAX_PLATFORMS="tpu" if accelerator == "tpu" else "cuda")
    try:
        done = subprocess.run([python, "-c", LOOK], env=environment, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise BootstrapError(
            f"jax did not answer within {SECONDS} s. {what_to_look_at(accelerator, environ)}"
        ) from None
    devices = done.stdout.decode(errors="replace").split("\n")[:-1]
    if done.returncode or not devices:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise BootstrapError(
            f"jax finds no {'TPU' if accelerator == 'tpu' else 'GPU'}: {said[-1] if said else 'it says nothing'}\n"
            f"{what_to_look_at(accelerator, environ)}"
        )
    return devices


def what_to_look_at(accelerator: str, environ: Mapping[str, str]) -> str:
    """Where the cause usually lies, with what this environment sets of it."""
    if accelerator == "tpu":
        usual = (
            "Look at: another process that holds the chips; of several hosts each has to run the command at the same "
            "time (docs/accelerators.md)"
        )
        names = sorted(name for name in environ if name.startswith(OF_TPU))
    else:
        usual = (
            f"Look at: the driver in nvidia-smi ({DRIVERS[accelerator]} or later); LD_LIBRARY_PATH, which puts other "
            "CUDA libraries before those installed here, so unset it; whether other processes fill the GPU's memory"
        )
        names = [name for name in OF_GPU if environ.get(name)]
    told = ", ".join(f"{name}={environ[name]}" for name in names)
    return f"{usual}. Set in this environment: {told or 'nothing that bears on it'}."
