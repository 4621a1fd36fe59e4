#!/usr/bin/env bash
# Order 1 of the continual-learning papers (dbpedia, amazon, yahoo, agnews) with several methods on a model of yours.
#
#   CLORA_DATA=/data/benchmarks bash examples/compare-methods.sh MODEL [OUT] [-- further options of train-task]
#
# CLORA_DATA is a folder that holds CL_Benchmark as it is distributed. MODEL is a folder or a Hub id. For a first look on a
# small model:  … MODEL out -- --train-rows 600 --epochs 2 --lr 2e-3
set -euo pipefail

model=${1:?give a model folder or a Hub id: compare-methods.sh MODEL [OUT] [-- options of train-task]}
shift
out=compare
if [[ $# -gt 0 && $1 != -- ]]; then out=$1; shift; fi
if [[ $# -gt 0 && $1 == -- ]]; then shift; fi
: "${CLORA_DATA:?set CLORA_DATA to the folder that holds CL_Benchmark}"

order=(dbpedia amazon yahoo agnews)
methods=(seq-lora inc-lora o-lora n-lora)

for method in "${methods[@]}"; do
  for task in "${order[@]}"; do
    clora train-task --model "$model" --method "$method" --data "$task" --package "$out/$method" --resume "$@"
  done
  # Exact match of greedy answers is the papers' metric; --score labels also credits what is left of a task whose
  # answers the model no longer spells out.
  clora eval "$out/$method" --matrix --out "$out/$method.json" >/dev/null
  clora eval "$out/$method" --matrix --score labels --out "$out/$method.labels.json" >/dev/null
done

scores=()
for method in "${methods[@]}"; do scores+=("$out/$method.json"); done
clora report "${scores[@]}" --out "$out/report.md" --out "$out/report.png"
