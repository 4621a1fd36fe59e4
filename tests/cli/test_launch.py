"""Several processes: the one place where the command line is run for real, since a launcher runs it so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from routed import write_routable
from safetensors.torch import load_file
from support import contents, one_line, write_task

from clora_cli.base.options import declared
from clora_cli.training.checkpoints import ADAPTER, OPTIMIZER, RANDOM, STATE, new_checkpoint

SHORT = ("--max-steps", 3, "--batch-size", 4, "--rank", 2, "--alpha", 4, "--device", "cpu", "--method", "n-lora")
CPU = ("--device", "cpu")


@pytest.fixture
def arguments(model_folder, tasks):
    return ("train-task", "--data", tasks["first"], "--model", model_folder("llama"), *SHORT)


@pytest.fixture
def apart(here, clora, arguments, monkeypatch):
    """Two folders, as on machines without a common disk; the first one holds an adapter."""
    folders = [here / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    assert clora(*arguments).code == 0
    monkeypatch.chdir(here)
    return folders


@pytest.fixture
def routable(here, backbone, tasks):
    """A package of two adapters with distributions."""
    names = [str(tasks[name]) for name in ("first", "second")]
    return write_routable(here / "adapters", backbone("llama"), names, second="full")


def largest_difference(one, other):
    first, second = (load_file(folder / "first" / "adapter_model.safetensors") for folder in (one, other))
    assert set(first) == set(second)
    return max(float((first[key] - second[key]).abs().max()) for key in first)


def test_two_processes_train_the_adapter_that_one_trains(process, clora, arguments, here):
    # Its rows begin alike, which every process runs once, beside what DDP wraps.
    arguments = [*arguments, "--data", write_task(here / "data" / "first", start="say how it was, in a few words: ")]
    assert clora(*arguments, "--package", "one", "-q").code == 0
    two = process("-m", "clora_cli", *arguments, "--package", "two", "--nproc", 2)
    assert (two.code, two.out) == (0, "two/first  (trained, stage 1)\n")
    assert two.err.count("\n") == 1
    assert two.err.startswith("train first: 3/3  loss ")
    assert largest_difference(here / "one", here / "two") < 1e-5
    # Under Accelerate's own launcher: --cpu would run one process without a word, so the launcher is told --multi_gpu,
    # which means several processes, and the command --device cpu.
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", 1, "--num_processes", 2)
    plain = ("--mixed_precision", "no", "--dynamo_backend", "no")
    three = process(*launcher, *plain, "-m", "clora_cli", *arguments, "--package", "three")
    assert (three.code, three.out) == (0, "three/first  (trained, stage 1)\n")
    assert largest_difference(here / "two", here / "three") == 0


def test_launchers_on_two_machines_without_a_common_disk_train_one_adapter(clora, arguments, here):
    """As on two nodes, each with a folder of its own; the base model is divided among them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ("--master-addr", "127.0.0.1", "--master-port", port)
    nodes = []
    for number in range(2):
        (here / f"node-{number}").mkdir()
        launcher = ("-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1, "--node-rank", number, *place)
        command = [sys.executable, *launcher, "-m", "clora_cli", *arguments, "--shard", "-q"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        nodes.append(subprocess.Popen([str(word) for word in command], cwd=here / f"node-{number}", **pipes))
    told = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told
    assert [out for out, _ in told] == ["adapters/first\n", ""]
    assert clora(*arguments, "-q").code == 0
    assert largest_difference(here / "adapters", here / "node-0" / "adapters") < 1e-5
    assert not list((here / "node-1").glob("adapters/*"))


def test_an_error_in_the_processes_is_told_once_and_its_exit_code_comes_back(process, arguments, here):
    result = process("-m", "clora_cli", *arguments, "--nproc", 2, "--data", "mnil")
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("error: 'mnil' is not among")
    assert result.err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_batches_must_divide_among_the_processes(clora, arguments, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    result = clora(*arguments)
    assert result.code == 2
    assert "--batch-size 4 does not divide among 3 processes" in result.err


def test_an_interrupted_launch_keeps_a_checkpoint(arguments, here):
    long = ("--max-steps", 100000, "--save-steps", 5, "--nproc", 2)
    command = [sys.executable, "-m", "clora_cli", *map(str, (*arguments, *long))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as running:
        deadline = time.monotonic() + 600
        while not list(here.glob("adapters/.first.unfinished/checkpoint-*/trainer_state.json")):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
        out, err = running.communicate(timeout=300)
    assert (running.returncode, out) == (130, ""), err
    assert err.startswith("error: interrupted at step ")
    assert err.endswith("of 100000; continue with --resume\n")
    assert err.count("\n") == 1
    step = int(err.split()[4])
    assert (here / f"adapters/.first.unfinished/checkpoint-{step}/trainer_state.json").is_file()


@pytest.mark.parametrize(
    ("turned", "words", "told"),
    [
        (False, ("--force",), "finished adapter "),
        (True, (), "finished adapter none -> "),
        (False, ("--method", "zero-shot", "--data", "second"), "stage 2 -> 1"),
        (True, ("--data", "second", "--resume"), "parents"),
    ],
    ids=["force", "finished", "trains nothing", "one more parent"],
)
def test_processes_that_see_other_folders_end_together(ranks, arguments, apart, tasks, turned, words, told):
    before = [contents(folder) for folder in apart]
    words = [tasks.get(word, word) for word in words]
    found = ranks(*arguments, *words, folders=apart[::-1] if turned else apart, agent=turned)
    assert found.codes == [4, 4]
    assert found.line.startswith("error: rank 1 found other things than rank 0 (")
    assert told in found.line
    assert [contents(folder) for folder in apart] == before


def test_an_unfinished_run_that_one_process_sees_is_not_continued(ranks, arguments, here):
    folders = [here / name for name in ("one", "two")]
    work = folders[0] / "adapters" / ".first.unfinished"
    for folder in (work, folders[1]):
        folder.mkdir(parents=True)
    with new_checkpoint(work / "checkpoint-2") as draft:
        for kind in (ADAPTER, OPTIMIZER, RANDOM, STATE, "trainer_state.json"):
            (draft / kind).write_text("{}")
    for seen, told in ((folders, " -> none, unfinished run there -> none"), (folders[::-1], "none -> checkpoint-2/")):
        found = ranks(*arguments, "--resume", folders=seen)
        assert found.codes == [4, 4]
        assert told in found.line


def test_processes_that_have_other_data_or_options_end_together(ranks, arguments, here):
    folders = [write_task(here / name / "data", seed).parent for seed, name in enumerate(("one", "two"))]
    found = ranks(*arguments, "--data", "data", folders=folders)
    assert (found.codes, found.line.count("data.fingerprint")) == ([4, 4], 1)
    settings = [{}, {"CLORA_TRAIN_TASK_LR": "0.5"}]
    found = ranks(*arguments, folders=[here, here], environment=settings)
    assert (found.codes, "(training.lr 0.0003 -> 0.5)" in found.line) == ([4, 4], True)
    assert [path.name for path in here.rglob("adapters")] == []


@pytest.mark.parametrize(
    ("words", "odd"),
    [
        (("train-task", "--data", "first"), ("--dry-run",)),
        (("train-task", "--data", "first"), ("--force",)),
        (("stat-features", "adapters"), ("--add",)),
        (("route", "adapters", "--data", "first"), ("--dry-run",)),
        (("eval", "adapters"), ("--fail-under", 50)),
        (("eval", "adapters", "--combine", "route", "--abstain", 0.2), ("--calibrate", "second")),
        (("eval", "adapters", "--retention", "first"), ("--retention", "second")),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_a_process_that_would_do_something_else_than_the_others_ends_all(ranks, routable, here, tasks, words, odd):
    """Each would wait for others that never come, or end otherwise."""
    words, odd = ([tasks.get(word, word) for word in given] for given in (words, odd))
    found = ranks(*words, *CPU, also=[(), odd], folders=[here, here], timeout=60)
    assert (found.codes, odd[0].strip("-").replace("-", "_") in found.line) == ([4, 4], True)


def test_another_command_or_another_version_ends_all(ranks, routable, here):
    found = ranks(also=[("route", "adapters", "--data", "x"), ("merge", "adapters")], folders=[here, here])
    assert (found.codes, "(command route -> merge)" in found.line) == ([4, 4], True)
    (here / "main.py").write_text(
        "import os\nfrom clora_cli.base import versions\nfrom clora_cli.cli import main\n"
        "versions.__version__ = f'0.{os.environ[\"RANK\"]}'\nmain()\n"
    )
    found = ranks("merge", "adapters", folders=[here, here], script=here / "main.py")
    assert (found.codes, "(versions.clora 0.0 -> 0.1)" in found.line) == ([4, 4], True)
    assert not (here / "merged").exists()


def test_a_number_of_processes_that_a_launcher_did_not_start_is_refused(clora, monkeypatch, here):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    refused = clora("eval", "adapters", "--nproc", 2)
    assert (refused.code, refused.error) == (2, "processes-already-launched")


@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize("late", [0, 1])
def test_a_process_that_fails_while_it_plans_ends_all(ranks, arguments, here, odd, late):
    """Whoever fails, and whoever comes first."""
    wrong = [("--data", "mnil"), ("--dato", "x")][late]
    found = ranks(
        *arguments,
        also=[wrong if rank == odd else () for rank in range(2)],
        late=[2 * (rank == late) for rank in range(2)],
        folders=[here, here],
        agent=odd == 0,
    )
    assert found.codes == [3, 3] if late == 0 else [2, 2]
    assert wrong[1 - late] in found.line
    assert list(here.iterdir()) == []


def test_a_process_that_fails_once_all_have_agreed_ends_all(ranks, arguments, here, model_folder):
    for name in ("one", "two"):
        shutil.copytree(model_folder("llama"), here / name / "model")
    (here / "two" / "model" / "tokenizer.json").write_text("{")
    words = ("--model", "model", "--method", "seq-lora")
    found = ranks(*arguments, *words, folders=[here / "one", here / "two"])
    assert found.codes == [3, 3]
    assert "base model model cannot be loaded" in found.line


def test_each_process_may_have_a_disk_of_its_own(ranks, arguments, here):
    folders = [here / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    found = ranks(*arguments, "--save-steps", 1, folders=folders)
    assert (found.codes, found.out) == ([0, 0], ["adapters/first  (trained, stage 1)\n", ""])
    assert [path.name for path in folders[1].glob("adapters/*")] == []
    found = ranks(*arguments, folders=folders)
    assert (found.codes, "finished adapter" in found.line) == ([4, 4], True)


def test_what_one_process_does_the_others_wait_for(ranks, routable, here):
    found = ranks("merge", "adapters", "-q", folders=[here, here])
    assert (found.codes, found.out, found.err) == ([0, 0], ["merged\n", ""], ["", ""])
    found = ranks("trim", "none", "--by", "knee", folders=[here, here], agent=True)
    assert (found.codes, "adapter folder none does not exist" in found.line) == ([3, 3], True)


def test_processes_that_do_not_know_where_to_meet_say_so_before_they_do_anything(clora, routable, monkeypatch, here):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": ""}.items():
        monkeypatch.setenv(name, value)
    result = clora("merge", "adapters")
    assert (result.code, "MASTER_ADDR and MASTER_PORT are not" in one_line(result)) == (2, True)
    assert not (here / "merged").exists()


def test_what_a_divided_model_needs_is_told_before_anything_is_loaded(
    clora, package, arguments, monkeypatch, model_folder, here
):
    stored = shutil.copytree(model_folder("llama"), here / "stored")
    config = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    refused = clora(*arguments, "--package", "another", "--model", stored, "--shard")
    assert (refused.code, refused.error, "stored so (fp8)" in refused.err) == (2, "quantized-not-divided", True)
    for words, code in (((), "shard-needs-processes"), (("--quantize", "4bit"), "quantized-not-divided")):
        refused = clora("eval", "adapters", "--shard", *words)
        assert (refused.code, refused.error) == (2, code)
    assert clora("eval", "adapters", "--quantize", "8bit", *CPU).error == "quantisation-unavailable"
    for name, value, told in (
        ("ACCELERATE_USE_FSDP", "true", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "ZeRO-3"),
        ("PARALLELISM_CONFIG_TP_SIZE", "2", "tensor parallelism"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            patched.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
            for command in (("eval", "adapters"), (*arguments, "--package", "another")):
                refused = clora(*command)
                assert (refused.code, refused.error) == (2, "engine-shards-by-itself")
                assert told in refused.err and "--shard" in refused.err


@pytest.mark.parametrize(
    ("chosen", "code"),
    [
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "engine-compiles"),
        (
            {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2"},
            "engine-not-available",
        ),
    ],
    ids=["compiled", "not for this device"],
)
def test_what_the_launcher_configures_and_cannot_be_is_told_in_one_line(
    clora, arguments, monkeypatch, here, chosen, code
):
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    refused = clora(*arguments)
    assert (refused.code, refused.error, refused.err.count("\n")) == (2, code, 1)
    assert not list(here.glob("adapters/*"))


def test_the_number_of_processes_is_an_option(process, clora, routable, here):
    rows = [{"text": f"the boat was {number}"} for number in range(9)]
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("route", "adapters", *CPU, "-b", 2, "--data", "rows.jsonl")
    found = process("-m", "clora_cli", *command, "--nproc", 2)
    alone = clora(*command)
    assert (found.code, found.out, found.err) == (alone.code, alone.out, alone.err)
    assert clora("eval", "adapters", "--nproc", 0).code == clora(*command, "--nproc", 0).code == 2
    assert "give a whole number or auto" in clora(*command, "--nproc", "all").err


def test_auto_is_one_process_for_each_accelerator(monkeypatch):
    import torch

    from clora_cli.options import EvalOptions

    parse = declared(EvalOptions)["nproc"].parse
    for there, count in ((0, 1), (3, 3)):
        monkeypatch.setattr(torch.accelerator, "device_count", lambda there=there: there)
        assert parse("auto") == count


def test_a_process_that_is_killed_ends_all_with_one_line(ranks, arguments, here):
    """The one that is left has the training's own connection to tell it."""
    begun = "adapters/.first.unfinished/checkpoint-*/trainer_state.json"
    found = ranks(*arguments, "--max-steps", 100000, "--save-steps", 2, folders=[here] * 2, agent=True, kill=(1, begun))
    assert found.codes == [1, -signal.SIGKILL]
    assert "another process of this launch has gone" in found.line
