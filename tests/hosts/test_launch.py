"""What `scripts/launch/render.py` writes: shells can read it, the JobSet has the fields of its API, and they start."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from stages.process import ROOT

RENDER = ROOT / "scripts" / "launch" / "render.py"
SETTINGS = {
    "slurm": ("--nodes", "4", "--devices", "8", "--name", "big", "--restarts", "2"),
    "jobset": ("--nodes", "4", "--devices", "8", "--name", "big", "--image", "repo/jaxpo:1", "--claim", "runs"),
    "tpu": ("--tpu", "slice", "--zone", "us-x1"),
}
COMMAND = ("jaxpo", "run", "my recipe.json", "--run", 'it"s')
# Fields of JobSet v1alpha2 and of the Kubernetes objects within it that the template may use: type, or what lies below.
POD = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "nodeSelector": dict,
    "containers": [
        {
            "name": str,
            "image": str,
            "command": list,
            "env": [{"name": str, "value?": str, "valueFrom?": {"fieldRef": {"fieldPath": str}}}],
            "ports": [{"containerPort": int}],
            "resources": {"limits": dict},
            "volumeMounts": [{"name": str, "mountPath": str}],
        }
    ],
    "volumes": [{"name": str, "persistentVolumeClaim?": {"claimName": str}, "emptyDir?": {"medium": str}}],
}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": str,
    "backoffLimit": int,
    "podFailurePolicy": {
        "rules": [{"action": str, "onExitCodes": {"containerName": str, "operator": str, "values": [int]}}]
    },
    "template": {"spec": POD},
}
JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "network": {"enableDNSHostnames": bool},
        "failurePolicy": {"maxRestarts": int, "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}]},
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}


def render(kind, *further, command=COMMAND):
    words = [sys.executable, str(RENDER), kind, *SETTINGS[kind], *further, "--", *command]
    return subprocess.run(words, capture_output=True, text=True)


def fits(value, shape, where="jobset"):
    if isinstance(shape, dict):
        known = {name.rstrip("?"): below for name, below in shape.items()}
        assert set(value) <= set(known), where
        assert {name for name in shape if not name.endswith("?")} <= set(value), where
        for name, below in value.items():
            fits(below, known[name], f"{where}.{name}")
    elif isinstance(shape, list):
        assert value, where
        for below in value:
            fits(below, shape[0], where)
    else:
        assert type(value) is shape, where


def run(script, tmp_path, **commands):
    """A script with stand-ins for the commands that it needs."""
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "LOG": str(tmp_path / "log")}
    return subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True)


SHOW = """printf '%s|' "$JAX_PROCESS_ID" "$JAX_NUM_PROCESSES" "$JAX_COORDINATOR_ADDRESS" "$@" """


def test_the_jobset_has_the_fields_of_its_api_and_starts_every_process():
    document = yaml.safe_load(render("jobset", "--selector", "cloud.google.com/gke-tpu-topology=4x4").stdout)
    fits(document, JOBSET)
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    container = pod["containers"][0]
    assert job["parallelism"] == job["completions"] == 4
    assert pod["nodeSelector"] == {"cloud.google.com/gke-tpu-topology": "4x4"}
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    # JobSet calls a pod NAME-JOB-0-INDEX, below the headless service NAME.
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert values["JAX_COORDINATOR_ADDRESS"] == "big-workers-0-0.big:8476"
    assert values["JAX_NUM_PROCESSES"] == "4"
    script = container["command"][2].replace("exec jaxpo", "printf '%s|'")
    assert subprocess.check_output([*container["command"][:2], script], text=True) == 'run|my recipe.json|--run|it"s|'


@pytest.mark.parametrize(
    ("status", "count", "requeued"), [(0, 0, False), (2, 0, False), (75, 0, True), (137, 1, True), (75, 2, False)]
)
def test_slurm_puts_back_what_a_restart_can_mend(tmp_path, status, count, requeued):
    script = render("slurm").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=8\n#SBATCH --gpus-per-node=8\n" in script
    again = f"SLURM_RESTART_COUNT={count}\n{script}"
    found = run(again, tmp_path, srun=f'printf "%s|" "$@"; exit {status}', scontrol='echo "$@" > "$LOG"')
    assert found.returncode == status
    assert found.stdout.endswith('|jaxpo|run|my recipe.json|--run|it"s|')
    assert (tmp_path / "log").exists() == requeued


def test_every_host_of_a_tpu_slice_is_told_its_number(tmp_path):
    gcloud = 'for word; do case "$word" in --command=*) bash -c "${word#--command=}";; *) echo "$word";; esac; done'
    curl = 'case "${@: -1}" in *agent-worker-number) echo 2;; *) echo "a:1:10.0.0.4,b:2:10.0.0.5,c:3:10.0.0.6";; esac'
    found = run(render("tpu").stdout, tmp_path, gcloud=gcloud, curl=curl, jaxpo=SHOW)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[-1] == '2|3|10.0.0.4:8476|run|my recipe.json|--run|it"s|'
    assert {"slice", "--zone=us-x1", "--worker=all"} <= set(lines)


@pytest.mark.parametrize(
    ("kind", "further", "said"),
    [
        ("slurm", ("--nodes", "0"), "--nodes 0: at least 1"),
        ("slurm", ("--time", "a day"), "--time 'a day'"),
        ("jobset", ("--name", "Big_1"), "--name 'Big_1': lower-case"),
        ("jobset", ("--image", 'x"\n'), "--image"),
        ("jobset", ("--selector", "gpu"), "--selector 'gpu': expected KEY=VALUE"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind, further, said):
    found = render(kind, *further)
    assert found.returncode == 2
    assert said in found.stderr
    assert not found.stdout


def test_a_command_is_needed():
    assert "give the command" in render("slurm", command=()).stderr
    assert json.dumps(render("slurm").stderr) == '""'
