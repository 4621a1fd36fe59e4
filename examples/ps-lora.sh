#!/usr/bin/env bash
# PS-LoRA as published, both halves: a stability loss while each task is learned, and a merge by magnitude at the end.
#
#   bash examples/ps-lora.sh [OUT] [-- further options of train-task, such as --model MODEL]
#
# Without options it runs on the bundled model and three bundled tasks, in some two minutes on two cores.
set -euo pipefail
command -v clora >/dev/null || { echo "clora is not on the PATH: install it first" >&2; exit 1; }

out=ps-lora
if [[ $# -gt 0 && $1 != -- ]]; then out=$1; shift; fi
if [[ $# -gt 0 && $1 == -- ]]; then shift; fi

tasks=(topics-news sentiment-binary inference)

# Algorithm 1, training: each task's LoRA is penalised where it would reverse what is there.
for task in "${tasks[@]}"; do
  clora train-task --method ps-lora --data "$task" --package "$out/adapters" --resume "$@"
done

# How often is a new delta's sign opposite to that of the earlier ones (the paper's Table 6)?
clora show --diff "$out"/adapters

# Algorithm 1, merging: at every position the entry of largest magnitude (eq. 5).
clora merge "$out"/adapters/* --strategy magmax -o "$out/merged"

# With and without the merge.
clora eval "$out/adapters" --combine sum -o "$out/sum.json"
clora eval "$out/merged" -o "$out/merged.json"
