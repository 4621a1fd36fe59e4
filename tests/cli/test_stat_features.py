from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from peft import LoraConfig, get_peft_model
from support import contents

from clora_cli.store.distribution import read_distribution
from clora_cli.store.side_files import FEATURES

ON_CPU = ("--device", "cpu")


def features(package, task="first"):
    return read_distribution(package / task / FEATURES)


def test_the_call_without_options_gives_every_adapter_its_own_tasks_means(clora, package):
    before = contents(package)
    result = clora("stat-features", "adapters", *ON_CPU)
    assert (result.code, result.out.splitlines()) == (
        0,
        [f"adapters/{task}/features.clora  (24 rows, 4 sites, means; made)" for task in ("first", "second")],
    )
    assert {name: content for name, content in contents(package).items() if FEATURES not in name} == before
    again = clora("stat-features", *sorted(package.iterdir()), *ON_CPU)
    assert [line.rpartition("; ")[2] for line in again.out.splitlines()] == ["up to date)", "up to date)"]
    assert clora("stat-features", "adapters/first", "-q", *ON_CPU).out == "adapters/first/features.clora\n"


def test_data_is_said_for_one_adapter_or_by_its_task(clora, package, tasks):
    assert clora("stat-features", "adapters/first", "--data", tasks["third"], *ON_CPU).code == 0
    assert features(package).record.raw["data"][0]["name"] == "third"
    result = clora("stat-features", "adapters", "--data", f"first={tasks['second']}", "--force", *ON_CPU)
    assert result.code == 0
    names = [features(package, task).record.raw["data"][0]["name"] for task in ("first", "second")]
    assert names == ["second", "second"]


def test_json_tells_what_was_taken(clora, package):
    chosen = ("--second-moment", "diag", "--layer", "last", "--limit", 12, "--seed", 7)
    data = json.loads(clora("stat-features", "adapters", *chosen, "--json", *ON_CPU).out)
    assert data["schema"] == "clora.stat-features/1"
    one, two = data["distributions"]
    assert (one["adapter"], two["task"], one["state"]) == ("adapters/first", "second", "made")
    assert one["sites"] == ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
    assert (one["rows"], one["second_moment"], one["privacy"]) == (12, "diag", None)
    assert one["data"][0]["seed"] == 7
    assert str(package.parent) not in json.dumps([one["path"], one["adapter"]])


def test_a_private_release_says_so_and_where_the_budget_goes(clora, package):
    private = ("--dp-epsilon", 8, "--dp-delta", 1e-5)
    result = clora("stat-features", "adapters/first", *private, *ON_CPU)
    assert result.out == (
        "adapters/first/features.clora  (24 rows, 4 sites, means, private with epsilon 8 and delta 1e-05; made)\n"
    )
    assert "note: 4 sites share the privacy budget; with --layer and --module fewer get less noise each" in result.err
    one = clora("stat-features", "adapters/second", *private, "--layer", "last", "--module", "v_proj", *ON_CPU)
    assert "1 site, means, private" in one.out
    assert "budget" not in one.err
    assert features(package, "second").record.raw["privacy"]["epsilon"] == 8


def test_dry_run_tells_the_plan_and_writes_nothing(clora, package):
    result = clora("stat-features", "adapters", "--second-moment", "full", "-b", 10, "--dry-run", *ON_CPU)
    assert result.out.splitlines()[0] == (
        "adapters/first/features.clora: 24 rows of first in 3 batches, 4 sites, 11 KiB; would be made"
    )
    data = json.loads(clora("stat-features", "adapters/first", "--dry-run", "--json", *ON_CPU).out)
    assert data["schema"] == "clora.plan/1"
    assert data["distributions"][0]["sites"]["model.layers.0.self_attn.v_proj"] == 16
    assert not list(package.rglob(FEATURES))


def test_options_come_from_a_file(clora, package, here):
    (here / "stat.yaml").write_text("second-moment: diag\nlayer: '0'\ndevice: cpu\n")
    assert "2 sites, means and variances; made" in clora("stat-features", "adapters/first", "-c", "stat.yaml").out


def test_faults_of_the_data_are_noted_once(clora, package, here, tasks):
    rows = "".join(json.dumps({"text": f"row {n}", "label": "great"}) + "\n" for n in range(20))
    for task in ("first", "second"):
        (here / f"{task}.jsonl").write_text(rows + json.dumps({"text": "no answer", "label": ""}) + "\n")
    result = clora("stat-features", "adapters", "--data", "first.jsonl", "--data", "second.jsonl", *ON_CPU)
    notes = [line for line in result.err.splitlines() if line.startswith("note: ")]
    assert result.code == 0
    assert notes and len(set(notes)) == len(notes)
    assert {note.split(": ")[1] for note in notes} == {"first", "second"}


def test_a_bare_folder_without_a_base_model_takes_the_environments(
    clora, here, backbone, model_folder, tasks, monkeypatch
):
    base = backbone("llama")
    base.model.name_or_path = ""
    get_peft_model(base.model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(here / "theirs")
    path = here / "theirs" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": None}))
    call = ("stat-features", "theirs", "--data", tasks["first"], *ON_CPU)
    result = clora(*call)
    assert (result.code, "--model" in result.err) == (2, True)
    monkeypatch.setenv("CLORA_MODEL", str(model_folder("llama")))
    assert clora(*call).code == 0
    assert clora("merge", "theirs").code == 0  # its distribution names the model now


@pytest.mark.parametrize(
    ("arguments", "code", "reason", "message"),
    [
        (["nowhere"], 3, "package-missing", "nowhere"),
        (["adapters", "--data", "mnil"], 2, "data-fits-no-adapter", "--data mnil"),
        (["adapters/first", "--data", "mnil"], 3, "data-not-found", "'mnil'"),
        (["adapters", "--data", "frst=mnli"], 2, "data-fits-no-adapter", "'first'"),
        (["adapters", "--model", "nowhere"], 3, "hub-unreachable", "base model 'nowhere'"),
        (["adapters", "--model", "clora-nano"], 4, "trained-on-other-base-model", "clora-nano"),
        (["adapters", "--layer", "7"], 2, "option-choice-unknown", "layer 7"),
        (["adapters", "--source", "bse"], 2, "option-choice-unknown", "--source bse"),
        (["adapters", "--limit", "5"], 3, "too-few-inputs", "--min-count 5"),
        (["adapters", "--dp-epsilon", "8"], 2, "option-missing", "--dp-delta"),
        (["adapters", "--dp-epsilon", "-1", "--dp-delta", "1e-5"], 2, "option-out-of-range", "--dp-epsilon -1"),
        (["adapters", "--add", "--force"], 2, "options-exclude-each-other", "--add"),
        (["adapters", "--nproc", "0"], 2, "option-out-of-range", "--nproc 0"),
        (["adapters", "--json", "-q"], 2, "", "--quiet"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(clora, package, arguments, code, reason, message):
    result = clora("stat-features", *arguments, *ON_CPU)
    assert result.error == reason
    error = [line for line in result.err.splitlines() if line.startswith("error")]
    assert (result.code, result.out, len(error)) == (code, "", 1)
    assert message in error[0]
    assert not list(package.rglob("*.safetensors-*")) and not list(package.rglob(FEATURES))


def test_a_damaged_file_is_told_and_replaced_by_force(clora, package):
    clora("stat-features", "adapters/first", *ON_CPU)
    whole = (package / "first" / FEATURES).read_bytes()
    (package / "first" / FEATURES).write_bytes(whole[:-3])
    result = clora("stat-features", "adapters", *ON_CPU)
    assert (result.code, result.error, result.err.count("\n")) == (3, "tensor-file-damaged", 1)
    assert "first/features.clora" in result.err
    assert clora("stat-features", "adapters", "--force", *ON_CPU).code == 0
    assert (package / "first" / FEATURES).read_bytes() == whole


@pytest.mark.parametrize("chosen", [("--second-moment", "full", "-b", 5), ("-b", 50)], ids=["uneven", "one-batch"])
def test_two_processes_write_the_bytes_that_one_writes(ranks, clora, package, here, chosen):
    command = ("stat-features", "adapters", *chosen, *ON_CPU)
    alone = clora(*command)
    one = contents(package)
    for task in ("first", "second"):
        (package / task / FEATURES).unlink()
    two = ranks(*command, folders=[here, here])
    assert (two.codes, two.out, two.err) == ([0, 0], [alone.out, ""], [alone.err, ""])
    assert contents(package) == one


def test_ctrl_c_ends_in_one_line_with_what_is_complete(package, here):
    command = [sys.executable, "-m", "clora_cli", "stat-features", "adapters", "-b", "1", "--layer", "0", *ON_CPU]
    command += ["--data", "first=topics-news", "--data", "second=topics-wiki", "--min-count", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as running:
        deadline = time.monotonic() + 300
        while not (package / "first" / FEATURES).is_file():
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == (
        "error: interrupted with 1 of 2 feature distributions written; give the same command again"
    )
    assert features(package).count == 600
    assert sorted(path.name for path in package.glob("*/*") if path.suffix in {".safetensors", ".clora"}) == sorted(
        ["adapter_model.safetensors"] * 2 + [FEATURES]
    )
