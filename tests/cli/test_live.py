from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from clora_cli.recipes.run_state import RunState

RECIPE = """\
name: tiny
model: {model}
tasks: [{first}, {second}]
methods: [seq-lora]
train: {{rank: 2, alpha: 4, max-steps: 3, batch-size: 4, lr: 1e-2, device: cpu}}
eval: {{test-rows: 4}}
"""
FOLDER = "runs/tiny"


def started(*arguments):
    words = [sys.executable, "-m", "clora_cli", "run", *map(str, arguments), "--port", "0"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def state_of(url):
    with urllib.request.urlopen(f"{url}/state", timeout=30) as answer:
        return json.load(answer)


def viewed(*extra):
    """Return what the page of the run's folder shows, in a process of its own."""
    process = started(FOLDER, "--live", "--json", *extra)
    try:
        told = json.loads(process.stdout.readline())
        assert (told["schema"], told["folder"]) == ("clora.live/1", FOLDER)
        return state_of(told["url"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 143


def kept():
    """Return what a page of the run's folder would show, without a process for it."""
    return json.loads(json.dumps(RunState(Path(FOLDER)).data()))


def settled():
    """Wait until the last command of a killed run has died."""
    until = time.monotonic() + 30
    while any(Path(FOLDER).rglob(".clora-lock-*/holder.json")) and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.5)


def test_the_page_is_the_same_after_a_kill(here, model_folder, tasks):
    text = RECIPE.format(model=model_folder("llama"), first=tasks["first"], second=tasks["second"])
    (here / "tiny.yaml").write_text(text, encoding="utf-8")
    process, scored = started("tiny.yaml", "--live"), Path(FOLDER, "seq-lora/seed-42/scores/1-first.json")
    url = process.stderr.readline().split()[-1]
    seen = {}
    while process.poll() is None and not scored.exists():
        seen = state_of(url)["runs"][0]
        time.sleep(0.1)
    process.kill()
    process.communicate(timeout=60)
    assert seen["state"] in {"running", "waiting"}
    with pytest.raises(urllib.error.URLError):
        state_of(url)
    settled()
    first = viewed()
    (run,) = first["runs"]
    assert (run["state"], run["now"], run["matrix"]["after"]) == ("stopped", None, ["first"])
    assert run["losses"]["first"][-1][0] == 3
    assert kept() == first
    subprocess.run([sys.executable, "-m", "clora_cli", "run", "tiny.yaml", "-q"], check=True, capture_output=True)
    (run,) = kept()["runs"]
    assert (run["state"], run["done"], run["matrix"]["after"]) == ("complete", 4, ["first", "second"])
    assert run["matrix"]["scores"][0] == first["runs"][0]["matrix"]["scores"][0] + [None]
