#!/usr/bin/env bash
# From training to answers over HTTP, on the bundled model and tasks: two tasks are learned and served, asked with curl and with the
# `openai` client; a third one is learned while the server runs, and answers the next request.
#
# Needs `pip install 'clora-cli[serve]' openai`, curl, and some minutes. With LLAMA_CPP_BASE=SmolLM2-135M-Instruct.Q4_1.gguf (or another
# model in GGUF that clora reads) and `pip install xllamacpp` it also learns a task on that model and asks llama.cpp. All lands in ./serving.
set -euo pipefail
command -v clora >/dev/null || { echo "clora is not on the PATH: install it first" >&2; exit 1; }

run() { # show a command, then run it
  printf '\n$ %s\n' "$*"
  "$@"
}

learn() { # a task, and what prompts of it look like to the base model
  run clora train-task --method inc-lora --data "$1" --package serving/adapters --max-steps 16 --resume -q
  run clora stat-features "serving/adapters/$1" --data "$1" --second-moment diag --limit 48 -q
}

ask() { # who answers a prompt, and what
  printf "\n\$ curl -s %s/v1/completions -H 'content-type: application/json' -d '%s'\n" "$url" "$1"
  curl -s "$url/v1/completions" -H 'content-type: application/json' -d "$1" -D serving/headers -o serving/answer
  grep -i '^x-clora' serving/headers | tr -d '\r'
  python3 -c 'import json; print(repr(json.load(open("serving/answer"))["choices"][0]["text"]))'
}

prompt() { # the first test prompt of a task as a request's body
  python3 -c '
import json, sys
from clora_cli.data import load_task
print(json.dumps({"prompt": load_task(sys.argv[1]).test[0].prompt, "max_tokens": 4}))' "$1"
}

mkdir -p serving
learn topics-news
learn sentiment-stars

# 1. Serve them, and ask with curl: the prompt chooses.
clora serve serving/adapters --port 8765 >serving/stdout 2>serving/log &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
url=http://127.0.0.1:8765
until curl -sf "$url/health" >/dev/null; do sleep 0.5; done
run curl -s "$url/health"
ask "$(prompt topics-news)"
ask "$(prompt sentiment-stars)"

# 2. The `openai` client, with a model by name.
python3 - "$url" <<'PYTHON'
import sys
import openai

client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="any")
print("\nmodels:", ", ".join(model.id for model in client.models.list()))
asked = "Which section of the newspaper does this item belong to?\nOption: politics, business, sports, science, crime\n"
asked += "The team won the cup after a long match.\nAnswer:"
stream = client.completions.create(model="topics-news", prompt=asked, max_tokens=4, stream=True)
print("topics-news says:", "".join(part.choices[0].text for part in stream))
PYTHON

# 3. A third task lands while the server runs.
learn topics-wiki
ask "$(prompt topics-wiki)"
kill "$server"
wait "$server" || true

# 4. The same on a model that llama.cpp serves.
if [[ -n ${LLAMA_CPP_BASE:-} ]]; then
  run clora train-task --method inc-lora --data topics-news --model "$LLAMA_CPP_BASE" --package serving/llama --max-steps 12 --batch-size 4 --resume -q
  run clora export serving/llama --for llama.cpp --model "$LLAMA_CPP_BASE" -o serving/exported --force
  run python3 "$(dirname "$0")/../benchmarks/llama_cpp_answers.py" "$LLAMA_CPP_BASE" serving/llama serving/exported/topics-news/adapter.gguf --data topics-news --rows 8
fi
