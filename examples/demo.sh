#!/usr/bin/env bash
# Continual learning from start to finish, on the bundled model and bundled tasks: `make demo`.
#
# One language model learns two tasks, one after the other. How much of the first is left at the end? Two methods
# answer: seq-lora trains one LoRA on and on; pfd gives every task a LoRA of its own and lets each input choose, by what the
# base model makes of it. Everything lands in ./demo; a second run finds it up to date.
set -euo pipefail
command -v clora >/dev/null || { echo "clora is not on the PATH: run \`make demo\`, or install it first" >&2; exit 1; }

run() { # show a command, then run it
  printf '\n$ %s\n' "$*"
  "$@"
}

tasks=(sentiment-stars sentiment-binary)
methods=(seq-lora pfd)
settings=(--epochs 2)

# 1. Learn the tasks in order. Each call adds one adapter folder to a package, here demo/seq-lora and demo/pfd.
#    --resume continues a run that was interrupted; a finished one is up to date.
for method in "${methods[@]}"; do
  for task in "${tasks[@]}"; do
    run clora train-task --method "$method" --data "$task" --package "demo/$method" "${settings[@]}" --resume
  done
done

# 2. What is in a package? Its members, in the order in which they were learned.
run clora show demo/pfd

# 3. Score every stage on every task: one row after each task, from the bare base model on.
for method in "${methods[@]}"; do
  package=demo/$method scores=demo/$method.json
  if [[ $scores -nt $package ]]; then
    run clora show "$scores" # scored since the package last changed
  else
    run clora eval "$package" --matrix --out "$scores"
  fi
done

# 4. Compare: the metrics of continual learning, and a figure.
report=(clora report demo/seq-lora.json demo/pfd.json --out demo/report.md --out demo/report.json --out demo/report.png)
printf '\n$ %s\n' "${report[*]}"
"${report[@]}" >/dev/null # it prints what demo/report.md holds; three of its metrics are enough here

python3 - demo/report.json <<'PYTHON'
import json, sys

with open(sys.argv[1], encoding="utf-8") as file:
    runs = json.load(file)["runs"]
chosen = {"AP": "average-performance", "F.Ra": "forgetting-rate", "BWT": "backward-transfer"}
print(f"\n{'':16}" + "".join(f"{name:>8}" for name in chosen))
for run in runs:
    print(f"{run['label']:16}" + "".join(f"{run['metrics'][name]:8.1f}" for name in chosen.values()))
print("\nAP: mean score at the end, higher is better. F.Ra: mean loss since each task's best, lower is better.")
print("BWT: mean change of old tasks since they were learned, higher is better.")
PYTHON
echo "Figure: demo/report.png    All metrics and their equations: demo/report.md"
