from __future__ import annotations

import json

import pytest
from support import contents, one_line, write_random_adapter

SHORT = ("--max-steps", 2, "--batch-size", 4, "--rank", 2, "--alpha", 4, "--device", "cpu")


@pytest.fixture
def train(clora, model_folder, tasks):
    """Run train-task on the tiny Llama and the first task, unless told otherwise."""

    def run(*arguments, data="first", model="llama"):
        named = ["--data", tasks[data]] if data else []
        named += ["--model", model_folder(model)] if model else []
        return clora("train-task", *named, *SHORT, *arguments)

    return run


def test_a_first_run_and_its_repetition(train, here):
    first = train("--method", "n-lora")
    assert (first.code, first.out) == (0, "adapters/first  (trained, stage 1)\n")
    assert first.err.splitlines()[-1].startswith("train first: 2/2  loss ")
    assert "Traceback" not in first.err and "%|" not in first.err
    before = contents(here)
    again = train("--method", "n-lora")
    assert (again.code, again.out, again.err) == (0, "adapters/first  (up to date, stage 1)\n", "")
    assert contents(here) == before


def test_quiet_prints_the_path_alone(train):
    result = train("-q", "--out", "here/it is")
    assert (result.code, result.out, result.err) == (0, "here/it is\n", "")


def test_quiet_still_warns(train):
    result = train("-q", "--method", "o-lora")
    assert (result.code, result.out) == (0, "adapters/first\n")
    assert result.err == "warning: o-lora: its penalty is inactive in this run: there is no earlier adapter\n"


def test_json_is_one_object_with_a_schema(train):
    result = train("--json")
    assert result.out.count("\n") == 1
    data = json.loads(result.out)
    assert (data["schema"], data["adapter"], data["task"], data["stage"], data["state"]) == (
        "clora.train-task/1",
        "adapters/first",
        "first",
        1,
        "trained",
    )
    assert json.loads(train("--json").out) == {**data, "state": "up to date"}


def test_a_dry_run_changes_nothing(train, here):
    result = train("--dry-run", "--json", "--method", "o-lora+n-lora", "--nproc", 2)
    data = json.loads(result.out)
    assert (result.code, data["schema"], data["steps"], data["sites"]) == (0, "clora.plan/1", 2, 4)
    assert data["recipe"]["method"]["name"] == "o-lora+n-lora"
    assert "would train adapters/first" in train("--dry-run").out
    assert train("--dry-run", "-q").out == "adapters/first\n"
    assert list(here.iterdir()) == []


def test_force_and_other_options(train, here):
    train()
    before = contents(here)
    result = train("--lr", 0.5)
    assert result.code == 2
    assert "made differently (training.lr 0.0003 -> 0.5); pass --force" in one_line(result)
    assert contents(here) == before
    assert train("--lr", 0.5, "--force", "-q").code == 0
    assert contents(here) != before


@pytest.mark.parametrize(
    ("arguments", "code", "reason", "told"),
    [
        (["--method", "n-lorra"], 2, "unknown-name", "'n-lora'"),
        (["--method", "n-lora", "-o", "strenght=1"], 2, "unknown-name", "'strength'"),
        (["--method", "n-lora", "-o", "strength=much"], 2, "option-malformed", "strength=much"),
        (["-o", "strength"], 2, "option-malformed", "key=value"),
        (["--method", "o-lora+seq-lora"], 2, "methods-disagree", "--method o-lora+seq-lora"),
        (["--target-modules", "nope"], 2, "target-modules-match-nothing", "--target-modules nope"),
        (["--rank", "0"], 2, "option-out-of-range", "--rank 0"),
        (["--rank", "two"], 2, "", "'--rank'"),
        (["--train-rows", "-3"], 2, "option-out-of-range", "--train-rows -3"),
        (["--schedule", "cosin"], 2, "option-choice-unknown", "linear, constant, cosine"),
        (["--device", "abacus"], 2, "device-unavailable", "--device abacus"),
        (["--device", "toaster"], 2, "device-unavailable", "--device toaster"),
        (["--dtype", "float64"], 2, "option-choice-unknown", "--dtype float64"),
        (["--quantize", "4bit"], 2, "quantisation-unavailable", "--quantize 4bit"),
        (["--nproc", "0"], 2, "option-out-of-range", "--nproc 0"),
        (["--report-to", "nobody"], 2, "tracker-not-installed", "--report-to nobody"),
        (["--json", "--quiet"], 2, "", "--quiet"),
        (["--lorra"], 2, "", "--lorra"),
        (["--columns", "text"], 2, "option-malformed", "key=value"),
        (["--columns", "txt=a"], 2, "unknown-name", "'text'"),
        (["--package", "file/x"], 1, "cannot-write", "file/x"),
        (["--out", "/proc/clora/x"], 1, "cannot-write", "/proc/clora"),
        (["--max-length", "3"], 3, "prompt-too-long", "--max-length"),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_nothing(train, here, arguments, code, reason, told):
    (here / "file").write_text("here first", encoding="utf-8")
    result = train(*arguments)
    assert result.error == reason
    assert told in one_line(result)
    assert result.code == code
    assert {name for name in contents(here) if ".unfinished" not in name} == {"file"}
    assert not any(path.name.startswith(".") for path in here.rglob("*"))


def test_names_that_resolve_nowhere(train, here):
    result = train("--data", "mnil", data=None)
    assert result.code == 3
    assert "did you mean 'mnli'" in one_line(result)
    result = train("--model", "no/such/model", model=None)
    assert result.code == 3
    assert "base model 'no/such/model'" in one_line(result)
    result = train("--model", here, model=None)
    assert result.code == 3
    assert "config.json does not exist" in one_line(result)
    assert train("--data", "none.jsonl", data=None).code == 3
    assert contents(here) == {}


def test_damaged_and_foreign_packages(train, here, backbone):
    past = write_random_adapter(here / "adapters" / "second", backbone("llama"), stage=1)
    result = train(model="gpt2")
    assert result.code == 4
    assert "was trained on base model" in one_line(result)
    weights = past.path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    before = contents(here)
    result = train()
    assert result.code == 3
    assert "adapters/second is damaged" in one_line(result)
    assert contents(here) == before


def test_a_truncated_base_model(train, here, model_folder):
    import shutil

    shutil.copytree(model_folder("llama"), here / "model")
    weights = here / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    result = train("--model", here / "model", model=None)
    assert result.code == 3
    assert "model.safetensors is damaged (it ends within" in one_line(result)
    assert sorted(path.name for path in here.iterdir()) == ["model"]


def test_a_configuration_file_gives_defaults(train, here, monkeypatch):
    def rank_of(*arguments):
        return json.loads(train("--dry-run", "--json", "-c", "c.yaml", *arguments).out)["recipe"]

    text = "method: n-lora\noption: {strength: 0.1}\nseed: 5\nlr: 0.5\ntarget-modules: [q_proj]\ngradient_checkpointing: true\n"
    (here / "c.yaml").write_text(text, encoding="utf-8")
    recipe = rank_of()
    assert recipe["method"]["options"]["n-lora"]["strength"] == 0.1
    assert (recipe["seed"], recipe["training"]["lr"], recipe["lora"]["target_modules"]) == (5, 0.5, ["q_proj"])
    assert recipe["training"]["epochs"] == 4  # a default
    monkeypatch.setenv("CLORA_TRAIN_TASK_SEED", "6")
    monkeypatch.setenv("CLORA_TRAIN_TASK_LR", "0.6")
    recipe = rank_of("--lr", 0.7)
    assert (recipe["seed"], recipe["training"]["lr"]) == (6, 0.7)


@pytest.mark.parametrize(
    ("text", "code", "reason", "told"),
    [
        ("metod: n-lora", 2, "unknown-name", "c.yaml 'metod'; did you mean 'method'"),
        ("dry_run: true", 2, "unknown-name", "c.yaml 'dry_run'"),
        ("- method", 2, "configuration-not-a-mapping", "c.yaml"),
        ("", 2, "document-empty", "c.yaml"),
        ("a: [", 3, "yaml-malformed", "c.yaml"),
        ("epochs: two", 2, "", "'--epochs'"),
        ("option: {strenght: 1}\nmethod: n-lora", 2, "unknown-name", "'strength'"),
    ],
)
def test_a_configuration_file_that_is_wrong(train, here, text, code, reason, told):
    (here / "c.yaml").write_text(text, encoding="utf-8")
    result = train("-c", "c.yaml")
    assert result.error == reason
    assert told in one_line(result)
    assert result.code == code
    assert train("-c", "none.yaml").code == 3


def test_the_model_comes_from_the_environment(train, here, monkeypatch, model_folder):
    monkeypatch.setenv("CLORA_MODEL", str(model_folder("llama", 1)))
    data = json.loads(train("--dry-run", "--json", model=None).out)
    assert data["recipe"]["base_model"]["id"] == str(model_folder("llama", 1))
    data = json.loads(train("--dry-run", "--json").out)
    assert data["recipe"]["base_model"]["id"] == str(model_folder("llama"))


def test_only_rank_0_speaks(train, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = train("--method", "none")
    assert (result.code, result.out, result.err) == (2, "", "")


def test_every_answer_of_a_conversation_can_be_learned(train, clora, here):
    turns = [{"role": role, "content": f"{role} %"} for role in ("user", "assistant", "user", "assistant")]
    rows = [json.dumps({"messages": turns}).replace("%", str(number)) for number in range(20)]
    (here / "talk.jsonl").write_text("\n".join(rows), encoding="utf-8")
    talk = ("--data", "talk.jsonl", "-q")
    assert train(*talk, data=None).code == 0
    last = json.loads((here / "adapters" / "talk" / "clora.json").read_text(encoding="utf-8"))
    assert "learn" not in last["training"] and last["data"]["train_rows"] == 16
    assert train(*talk, "--learn", "all", "-p", "all", data=None).code == 0
    every = json.loads((here / "all" / "talk" / "clora.json").read_text(encoding="utf-8"))
    assert every["training"]["learn"] == "all" and every["data"]["train_rows"] == 32
    assert every["data"]["fingerprint"] == last["data"]["fingerprint"]
    made = json.loads(clora("stat-features", "all", "adapters", "--device", "cpu", "--json").out)["distributions"]
    assert [one["rows"] for one in made] == [32, 16]  # what each learned from
    result = train(*talk, "--learn", "each", data=None)
    assert result.code == 2 and "choose one of last, all" in one_line(result)


def test_calls_of_tools_are_refused_where_the_model_cannot_write_them(train, here):
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]}
    turns = [{"role": "user", "content": "%"}, call, {"role": "tool", "content": "sun"}]
    rows = [{"messages": [*turns, {"role": "assistant", "content": "sunny"}]}] * 20
    text = "\n".join(json.dumps(row).replace("%", str(number)) for number, row in enumerate(rows))
    (here / "tools.jsonl").write_text(text, encoding="utf-8")
    result = train("--data", "tools.jsonl", data=None)
    assert result.code == 3 and "they use tools (weather)" in one_line(result)
