#!/usr/bin/env bash
# Continual learning on a real language model: `make demo-llm`.
#
# SmolLM2-135M-Instruct, a pretrained model in a GGUF file, learns three of the bundled tasks one after another, 200 rows each.
# seq-lora trains one LoRA on and on. pfd keeps a LoRA for each task, and inputs find theirs by feature distributions: nobody
# tells it which task an input is from. Everything lands in ./demo-llm; a second run finds it up to date.
set -euo pipefail
command -v clora >/dev/null || { echo "clora is not on the PATH: run \`make demo-llm\`, or install it first" >&2; exit 1; }
model=${1:?"the model, such as SmolLM2-135M-Instruct.Q4_1.gguf"}

run() { # show a command, then run it
  printf '\n$ %s\n' "$*"
  "$@"
}

tasks=(topics-news sentiment-stars topics-forum)
methods=(seq-lora pfd)

# 1. Learn the tasks in order. --resume continues a run that was interrupted; a finished one is up to date.
for method in "${methods[@]}"; do
  for task in "${tasks[@]}"; do
    run clora train-task --model "$model" --method "$method" --data "$task" --package "demo-llm/$method" \
      --train-rows 200 --epochs 1 --batch-size 8 --lr 4e-3 --max-length 128 --resume
  done
done

# 2. Which adapter does an input go to? Rows of the tasks, whose table follows, and two prompts of nobody's task.
inputs=("${tasks[@]/#/--data=}")
route=(clora route demo-llm/pfd "${inputs[@]}" --limit 40 --abstain 0.05)
printf '\n$ %s >demo-llm/routes.jsonl\n' "${route[*]}"
"${route[@]}" >demo-llm/routes.jsonl
printf '\n$ clora route demo-llm/pfd --abstain 0.05 <prompts.jsonl\n'
printf '{"prompt": "%s"}\n' "Write a poem about the sea." "def add(a, b):" |
  clora route demo-llm/pfd --abstain 0.05

# 3. Score every stage on every task: one row after each task, from the bare base model on.
for method in "${methods[@]}"; do
  package=demo-llm/$method scores=demo-llm/$method.json
  if [[ $scores -nt $package ]]; then
    run clora show "$scores" # scored since the package last changed
  else
    run clora eval "$package" --matrix --test-rows 100 --max-length 128 --out "$scores"
  fi
done

# 4. Compare: the metrics of continual learning, and a page with figures.
run clora report demo-llm/seq-lora.json demo-llm/pfd.json --out demo-llm/report.md --out demo-llm/report.html --quiet
