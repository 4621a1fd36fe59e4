#!/usr/bin/env bash
# A limit for CI: new data arrives, a model learns it, and is published only if nothing that it could do is lost.
#
#   bash examples/ci-limits.sh [DATA.jsonl]
#
# DATA.jsonl holds rows of a new task, {"text": …, "label": …} or {"prompt": …, "completion": …}; its file name is the task's.
# Without it, rows of a bundled task stand in, on the bundled model: a minute and a half on one core. Everything lands in
# ./ci-limits; ci-limits/published.pkg is what is in use. Each run adds a task to it, or leaves it as it is and exits with 5.
set -euo pipefail
command -v clora >/dev/null || { echo "clora is not on the PATH: install it first" >&2; exit 1; }

run() { # show a command, then run it
  printf '\n$ %s\n' "$*"
  "$@"
}

# The limits, in percent and percent points. Test rows are few: leave room for what chance moves.
fail_under=${FAIL_UNDER:-50}
max_forgetting=${MAX_FORGETTING:-2}

published=ci-limits/published.pkg
scores=ci-limits/scores.json
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p ci-limits/data

bundled_rows() { # bundled_rows TASK FILE: what would come from your own pipeline
  python3 - "$1" "$2" <<'PYTHON'
import json, sys
from clora_cli.data import load_task

rows = ({"prompt": row.prompt, "completion": row.references[0]} for row in load_task(sys.argv[1]).train)
with open(sys.argv[2], "w", encoding="utf-8") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)
PYTHON
}

learn() { # learn FILE: one new adapter, with the distribution that routing finds it by
  local task
  task=$(basename "$1" .jsonl)
  run clora train-task --method per-task --data "$1" --package "$work/new" --max-steps 80 --lr 6e-3
  run clora stat-features "$work/new/$task" --data "$1" --second-moment full
}

evaluate() { # evaluate PACKAGE [limits …]: each input finds its own adapter; the rows of every task are held out of training
  local package=$1 tasks=()
  shift
  for file in ci-limits/data/*.jsonl; do tasks+=(--data "$file"); done
  run clora eval "$package" --combine route "${tasks[@]}" --out "$work/scores.json" "$@"
}

# 0. The first time there is nothing to lose: a first task is learned and published.
if [[ ! -e $published ]]; then
  bundled_rows sentiment-binary ci-limits/data/sentiment.jsonl
  learn ci-limits/data/sentiment.jsonl
  evaluate "$work/new" --fail-under "$fail_under"
  mv "$work/new" "$published"
  mv "$work/scores.json" "$scores"
fi

# 1. New data arrives.
new=${1:-}
if [[ -z $new ]]; then
  new=$work/topics.jsonl
  bundled_rows topics-news "$new"
fi
data=ci-limits/data/$(basename "$new")
[[ ! -e $data ]] || { echo "$data is learned already: give new data a file name of its own" >&2; exit 2; }
cp "$new" "$data"
trap 'rm -rf "$work" "$data"' EXIT # what is refused leaves no trace

# 2. Train: the adapters in use are not touched.
learn "$data"

# 3. Put together, without training.
run clora expand "$published" "$work/new" --out "$work/candidate.pkg"

# 4. The limits: a mean score to reach, and no task may have lost more than the limit since it was scored last.
#    clora exits with 5 if one is not met, and this script with it.
evaluate "$work/candidate.pkg" --fail-under "$fail_under" --baseline "$scores" --max-forgetting "$max_forgetting"

# 5. Publish. A package is a folder: mv and tar are all it takes. The last one stays for a way back.
trap 'rm -rf "$work"' EXIT
rm -rf ci-limits/previous.pkg
mv "$published" ci-limits/previous.pkg
mv "$work/candidate.pkg" "$published"
mv "$work/scores.json" "$scores"
tar -czf ci-limits/published.tar.gz -C ci-limits published.pkg
printf '\npublished: %s (%s)\n' "$published" "$(clora show "$published" --quiet | paste -sd ' ')"
