#!/usr/bin/env bash
# Runs jaxpo on every host of a TPU slice, as one run. The same command again resumes.
set -eu -o pipefail

# On each host the metadata server says which one it is, and where the others are ("NAME:ID:ADDRESS,...").
read -r -d '' remote <<'REMOTE' || true
set -eu -o pipefail
metadata() {
  curl -fsS -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$$1"
}
index=$$(metadata agent-worker-number)
IFS=, read -ra hosts <<< "$$(metadata worker-network-endpoints)"
export JAX_PROCESS_ID="$$index" JAX_NUM_PROCESSES="$${#hosts[@]}" JAX_COORDINATOR_ADDRESS="$${hosts[0]##*:}:8476"
exec $command
REMOTE

exec gcloud compute tpus tpu-vm ssh $tpu --zone=$zone --worker=all --command="bash -c $$(printf '%q' "$$remote")"
