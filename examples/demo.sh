#!/usr/bin/env bash
# A continual-learning run from start to finish, on the bundled model and bundled tasks: `make demo`, or bash examples/demo.sh
#
# One language model learns three tasks, one after another. Naive sequential fine-tuning (seq-lora) is compared with
# O-LoRA, which keeps each task's LoRA and makes it orthogonal to the earlier ones. How much of the first tasks is left?
set -euo pipefail
