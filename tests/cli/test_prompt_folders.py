"""Prompt-tuning folders that PEFT wrote: commands take them, or say in one line why not."""

from __future__ import annotations

import json

import pytest
from prompted import peft_prompt
from safetensors.torch import load_file, save_file
from support import one_line, write_random_adapter


@pytest.fixture
def prompts(here, backbone):
    """A package of two prompts of 2 and 3 virtual tokens."""
    for seed, name in enumerate(("first", "second")):
        peft_prompt(backbone(), here / "theirs" / name, tokens=2 + seed, seed=seed)
    return here / "theirs"


@pytest.mark.parametrize(
    "command",
    [
        "merge theirs -o out --model MODEL",
        "merge theirs -o out",
        "trim theirs/first --by magnitude -o out",
        "show theirs --diff",
        "export theirs --for peft -o out --model MODEL",
        "stat-features theirs/first --data TASK --model MODEL",
        "route theirs --data TASK --model MODEL",
        "serve theirs --model MODEL",
    ],
)
def test_what_needs_changes_of_weights_refuses_soft_prompts_by_name(clora, prompts, model_folder, tasks, command, here):
    words = command.replace("MODEL", str(model_folder("llama"))).replace("TASK", str(tasks["first"])).split()
    result = clora(*words)
    assert (result.code, result.error) == (4, "soft-prompt-changes-no-weight")
    assert "theirs/first holds a soft prompt" in one_line(result)
    assert not (here / "out").exists()


def test_show_tells_what_a_soft_prompt_is(clora, prompts):
    text = clora("show", "theirs/second").out
    assert "a PEFT prompt-tuning folder without a clora manifest" in text
    assert "3 virtual tokens of 32 numbers" in text and "features" not in text
    (facts,) = [json.loads(clora("show", "theirs/second", "--json").out)["adapter"]]
    assert (facts["form"], facts["tokens"], facts["hidden"], facts["parameters"]) == ("prompt", 3, 32, 96)
    assert clora("show", "theirs", "-q").out.split() == ["first", "second"]


def test_eval_and_report_take_soft_prompts(clora, prompts, model_folder, tasks, here):
    data = [word for name in ("first", "second") for word in ("--data", tasks[name])]
    chosen = ["--combine", "task-id", "--model", model_folder("llama"), "--device", "cpu"]
    result = clora("eval", "theirs", *chosen, *data, "--out", "scores.json")
    assert result.code == 0
    assert clora("report", "scores.json", "--out", "report.md").code == 0
    refusal = clora("eval", "theirs", *data, "--model", model_folder("llama"), "--combine", "ties")
    assert (refusal.code, refusal.error) == (2, "soft-prompts-not-combined-so")
    assert "theirs/first holds a soft prompt" in one_line(refusal)


def test_a_union_of_soft_prompts_is_written_and_one_with_a_lora_refused(clora, prompts, backbone, here):
    assert clora("expand", "theirs", "-o", "union.pkg").code == 0
    for name in ("first", "second"):
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            assert (here / "union.pkg" / name / file).read_bytes() == (prompts / name / file).read_bytes()
    write_random_adapter(here / "loras" / "third", backbone(), stage=1)
    for words in (["expand", "theirs", "loras", "-o", "other.pkg"], ["eval", "theirs", "loras"]):
        result = clora(*words)
        assert (result.code, result.error) == (4, "adapter-kinds-differ")
        assert "theirs/first holds a soft prompt and loras/third changes weights" in one_line(result)


def test_scan_looks_at_a_soft_prompt(clora, prompts):
    assert clora("scan", "theirs/first").code == 0
    file = prompts / "first" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, file)
    result = clora("scan", "theirs/first")
    assert result.code == 5 and "not finite" in result.out


def test_no_server_is_promised_a_merge_of_soft_prompts_that_were_trained_to_stand_together(clora, model_folder, tasks):
    trained = ["--method", "prog-prompt", "--data", tasks["first"], "--model", model_folder("llama"), "--device", "cpu"]
    assert clora("train-task", *trained, "--package", "own", "--max-steps", 1).code == 0
    result = clora("export", "own", "--for", "peft", "-o", "out", "--model", model_folder("llama"))
    assert (result.code, result.error) == (4, "soft-prompt-changes-no-weight")
