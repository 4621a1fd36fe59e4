"""clora route: rows in, rows out, in order and as they come."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from parts import mean_vector, write_parts
from routed import give_distribution, write_routable
from support import contents, write_random_adapter

from clora_cli.data import load_task

CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory, model_folder, tasks):
    """Two adapters with full second moments, and their base model."""
    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.base_model import find_model

    backbone = load_backbone(find_model(str(model_folder("llama"))), device=torch.device("cpu"))
    folder = tmp_path_factory.mktemp("route") / "adapters"
    names = [str(tasks[name]) for name in ("first", "second")]
    return write_routable(folder, backbone, names, second="full"), backbone


@pytest.fixture
def package(made):
    return made[0]


@pytest.fixture
def given(monkeypatch):
    """Put lines on this process's standard input."""

    def give(*rows, terminal=False):
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        stream = SimpleNamespace(buffer=io.BytesIO(text.encode()), isatty=lambda: terminal)
        monkeypatch.setattr(sys, "stdin", stream)

    return give


def lines(result):
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def one_error(result, code):
    assert result.code == code, result.err
    (error,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.err
    return error


def test_rows_pass_through_in_order_with_their_adapter_and_weights(clora, given, package):
    rows = [
        {"text": "the boat was great", "id": 7, "nested": {"a": [1, None]}, "unicode": "é…"},
        {"prompt": "a quiet film", "adapter": "stale"},
        {"instruction": "Say", "input": "why"},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"input": "x" * 3000},
    ]
    given(*rows)
    found = lines(clora("route", package, *CPU))
    assert len(found) == len(rows)
    for row, out in zip(rows, found, strict=True):
        assert {key: out[key] for key in row if key != "adapter"} == {key: row[key] for key in row if key != "adapter"}
        assert list(out) == [*(key for key in row), *(key for key in ("adapter", "weights") if key not in row)]
        assert sum(out["weights"].values()) == pytest.approx(1, abs=1e-5)
        assert out["adapter"] == next(iter(out["weights"])) == max(out["weights"], key=out["weights"].get)
        assert out["adapter"] in {"first", "second"}
        assert 0 not in out["weights"].values()


def test_the_weights_are_all_adapters_unless_told(clora, given, package):
    options = ("--similarity", "l2", "--route-layer", "last", "--route-module", "v_proj")
    given({"prompt": "a quiet film"})
    assert set(lines(clora("route", package, *options, *CPU))[0]["weights"]) == {"first", "second"}
    given({"prompt": "a quiet film"})
    (row,) = lines(clora("route", package, *options, "--top-k", 1, *CPU))
    assert row["weights"] == {row["adapter"]: 1.0}


def test_quiet_prints_names_alone(clora, given, package):
    given({"prompt": "a quiet film"}, {"prompt": "our lunch"})
    names = [row["adapter"] for row in lines(clora("route", package, *CPU))]
    given({"prompt": "a quiet film"}, {"prompt": "our lunch"})
    result = clora("route", package, "-q", *CPU)
    assert (result.code, result.out, result.err) == (0, "".join(f"{name}\n" for name in names), "")


def test_json_changes_nothing(clora, given, package):
    given({"prompt": "a quiet film"})
    plain = clora("route", package, *CPU)
    given({"prompt": "a quiet film"})
    assert clora("route", package, "--json", *CPU).out == plain.out


def test_weights_by_site(clora, given, package):
    given({"prompt": "a quiet film"})
    (row,) = lines(clora("route", package, "--per-site", "--route-layer", "last", "--similarity", "l2", *CPU))
    assert list(row["sites"]) == ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
    for name, weight in row["weights"].items():
        assert weight == pytest.approx(sum(site[name] for site in row["sites"].values()) / 2, abs=2e-6)


def test_named_tasks_end_in_a_confusion_matrix_and_figures(clora, here, package, tasks):
    before = contents(package)
    sources = [word for name in ("second", "first", "third") for word in ("--data", tasks[name])]
    result = clora("route", package, *sources, "-L", 5, "--heatmap", "new/w.png", "--confusion", "c.json", *CPU)
    found = lines(result)
    assert [(row["task"], row["row"]) for row in found] == [
        (name, row) for name in ("second", "first", "third") for row in range(1, 6)
    ]
    assert all(list(row) == ["task", "row", "adapter", "weights"] for row in found)
    data = json.loads((here / "c.json").read_text())
    assert (data["schema"], data["adapters"], data["tasks"]) == (
        "clora.routes/1", ["first", "second"], ["first", "second", "third"]
    )  # fmt: skip
    for task, counts in zip(data["tasks"], data["counts"], strict=True):
        chosen = [row["adapter"] for row in found if row["task"] == task]
        assert counts == [chosen.count("first"), chosen.count("second")]
    assert data["accuracy"][2] is None
    assert data["macro"] == pytest.approx(sum(data["accuracy"][:2]) / 2)
    assert data["settings"]["similarity"] == "mahalanobis"
    assert f"right: {data['macro']:.2f} % (macro)" in result.err
    assert (here / "new" / "w.png").read_bytes().startswith(b"\x89PNG")
    assert contents(package) == before


def test_a_task_field_makes_rows_of_known_tasks(clora, given, here, package):
    given({"prompt": "a", "task": "first"}, {"prompt": "b", "task": "elsewhere"}, {"prompt": "c"})
    result = clora("route", package, "--confusion", "c.json", *CPU)
    assert [row.get("task") for row in lines(result)] == ["first", "elsewhere", None]
    assert json.loads((here / "c.json").read_text())["tasks"] == ["first", "elsewhere"]
    assert "over 1 tasks, 1 inputs" in result.err


def test_without_known_tasks_there_is_no_matrix(clora, given, here, package):
    given({"prompt": "a"}, {"prompt": "c", "task": "elsewhere"})
    result = clora("route", package, "--heatmap", "w.svg", *CPU)
    assert "right" not in result.err
    assert (here / "w.svg").is_file()
    given({"prompt": "a"})
    assert "no input names its own" in clora("route", package, "--confusion", "c.json", *CPU).err


def test_nothing_in_nothing_out(clora, given, here, package):
    given()
    result = clora("route", package, "--heatmap", "w.svg", *CPU)
    assert (result.code, result.out) == (0, "")
    assert "was not drawn" in result.err
    assert not (here / "w.svg").exists()


def test_files_and_the_standard_input_in_one_call(clora, given, here, package, tasks):
    (here / "rows.csv").write_text("text,id\nour lunch,1\na new lamp,2\n", encoding="utf-8")
    given({"prompt": "a"})
    found = lines(clora("route", package, "-d", "rows.csv", "-d", "-", "-d", tasks["first"], "-L", 1, "-b", 2, *CPU))
    assert [next(iter(row)) for row in found] == ["text", "prompt", "task"]
    (here / "odd.jsonl").write_text('{"question": "why"}\n', encoding="utf-8")
    assert len(lines(clora("route", package, "-d", "odd.jsonl", "--columns", "prompt=question", *CPU))) == 1


def test_inputs_far_from_all_go_to_the_base_model(clora, given, package, tasks):
    given({"prompt": "}{" * 60})
    options = ("--abstain", 0.2, "--similarity", "l2", "--calibrate", tasks["first"])
    result = clora("route", package, *options, "--per-site", *CPU)
    (row,) = lines(result)
    assert (row["adapter"], row["weights"]) == (None, {})
    assert set(map(str, row["sites"].values())) == {"{}"}
    assert "20 % of 4 dev rows" in result.err
    given({"prompt": "}{" * 60})
    assert clora("route", package, *options, "-q", *CPU).out == "\n"


def test_a_dry_run_tells_the_plan_and_reads_nothing(clora, given, package):
    given("not json")
    result = clora("route", package, "--dry-run", "--route-layer", "middle", *CPU)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("would route among 2 adapters of ")
    assert "mahalanobis, all weighted, temperature 1, decided at 2 sites of layer middle" in result.out
    data = json.loads(clora("route", package, "--dry-run", "--json", "--similarity", "l2", *CPU).out)
    assert (data["schema"], data["similarity"], len(data["sites"])) == ("clora.plan/1", "l2", 4)
    assert data["adapters"] == ["first", "second"]


@pytest.mark.parametrize(
    ("rows", "reason", "message"),
    [
        (["{"], "json-malformed", "standard input, line 2"),
        ([""" "text" """], "row-not-an-object", "standard input, line 2"),
        ([{"words": "x"}], "columns-not-recognised", "standard input, line 2"),
        ([{"prompt": "  "}], "prompt-empty", "standard input, line 2"),
    ],
)
def test_a_bad_line_is_named_after_what_came_before_it_was_answered(clora, given, package, rows, reason, message):
    given({"prompt": "a"}, *rows)
    result = clora("route", package, *CPU)
    assert result.error == reason
    assert message in one_error(result, 3)
    assert len(result.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "code", "reason", "message"),
    [
        (["--similarity", "l3"], 2, "unknown-name", "'l2'"),
        (["--top-k", "-1"], 2, "option-out-of-range", "--top-k -1"),
        (["--temperature", "0"], 2, "option-out-of-range", "--temperature 0"),
        (["--route-layer", "9"], 2, "option-choice-unknown", "layer 9"),
        (["--route-module", "o_proj"], 2, "module-matches-no-site", "q_proj, v_proj"),
        (["--abstain", "1.5"], 2, "option-out-of-range", "--abstain 1.5"),
        (["--calibrate", "cb"], 2, "option-has-no-effect", "--abstain"),
        (["--abstain", "0.1"], 3, "recorded-data-missing", "--calibrate"),
        (["--heatmap", "w.jpeg"], 2, "output-ending-unknown", ".png, .svg, .pdf"),
        (["--batch-size", "0"], 2, "option-out-of-range", "--batch-size 0"),
        (["--split", "valid"], 2, "option-choice-unknown", "test"),
        (["--data", "nowhere"], 3, "data-not-found", "'nowhere'"),
        (["--data", "-", "--data", "-"], 2, "option-given-twice", "twice"),
        (["--model", "clora-nano"], 4, "trained-on-other-base-model", "clora-nano"),
    ],
)
def test_mistakes_end_in_one_line(clora, given, package, tmp_path, options, code, reason, message):
    given({"prompt": "a"})
    if options[0] == "--abstain" and code == 3:  # tasks that were files of somebody else's
        manifest = json.loads((package / "first" / "clora.json").read_text())
        copy = tmp_path / "copy"
        copy.mkdir()
        for name, content in contents(package / "first").items():
            (copy / name).write_bytes(content)
        manifest["data"]["name"] = "gone"
        (copy / "clora.json").write_text(json.dumps(manifest))
        package = copy
    result = clora("route", package, *options, *CPU)
    assert result.error == reason
    assert message in one_error(result, code)
    assert result.out == ""


def test_a_terminal_is_not_waited_for(clora, given, package):
    given(terminal=True)
    assert "--data" in one_error(result := clora("route", package, *CPU), 2)
    assert result.error == "nothing-to-route"


def test_an_adapter_without_a_distribution_is_refused_with_the_command(clora, given, here, made, tasks):
    package, backbone = made
    bare = write_random_adapter(here / "third", backbone, stage=3)
    given({"prompt": "a"})
    assert "`clora stat-features third --data" in one_error(result := clora("route", package, "third", *CPU), 3)
    assert result.error == "feature-distribution-missing"
    give_distribution(bare.path, backbone, load_task(str(tasks["third"])).train, data="third", second="none")
    given({"prompt": "a"})
    assert "same second moments" in one_error(clora("route", package, "third", "--similarity", "mahalanobis", *CPU), 4)
    given({"prompt": "a"})
    result = clora("route", package, "third", *CPU)
    assert lines(result)
    assert " l2, " in result.err


def test_adapters_of_two_base_models_are_refused(clora, given, here, package, backbone, tasks):
    other = backbone("llama", 1)
    write_random_adapter(here / "third", other, stage=3)
    give_distribution(here / "third", other, load_task(str(tasks["third"])).train, data="third")
    given({"prompt": "a"})
    assert "llama-1" in one_error(result := clora("route", package, "third", *CPU), 4)
    assert result.error == "base-models-differ"


def test_distributions_of_adapted_features_are_used_with_a_warning(clora, given, here, made, tasks):
    _, backbone = made
    write_random_adapter(here / "adapters" / "first", backbone, stage=1)
    give_distribution(
        here / "adapters" / "first", backbone, load_task(str(tasks["first"])).train, data="first", source="adapted"
    )
    given({"prompt": "a"})
    result = clora("route", "adapters", *CPU)
    assert lines(result)[0]["weights"] == {"first": 1.0}
    assert "warning: the distributions were taken with --source adapted" in result.err


def test_half_a_surrogate_pair_passes_through(clora, given, package):
    given('{"prompt": "a", "odd": "\\ud800"}')
    assert lines(clora("route", package, *CPU))[0]["odd"] == "\ud800"


def test_a_configuration_gives_options(clora, given, here, package):
    (here / "route.yaml").write_text("similarity: l2\ntop-k: 1\nroute-layer: last\nper_site: true\n", encoding="utf-8")
    given({"prompt": "a"})
    (row,) = lines(clora("route", package, "-c", "route.yaml", *CPU))
    assert [len(weights) for weights in row["sites"].values()] == [1, 1]


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """Two adapters of the bundled model, over two bundled tasks."""
    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.base_model import find_model

    backbone = load_backbone(find_model("clora-nano"), device=torch.device("cpu"))
    return write_routable(tmp_path_factory.mktemp("nano"), backbone, ["yes-no", "topics-news"], rows=80, second="full")


def test_each_row_is_answered_before_the_next_is_sent_until_the_reader_leaves(nano):
    command = [sys.executable, "-m", "clora_cli", "route", str(nano), "--batch-size", "1", *CPU]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, **pipes, env=buffered) as process:
        watch = threading.Timer(120, process.kill)  # an answer that is kept back would be waited for
        watch.start()
        for name in ("yes-no", "topics-news", "yes-no"):
            example = load_task(name).test[0]
            process.stdin.write(json.dumps({"prompt": example.prompt, "task": name}).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert (answer["adapter"], answer["task"]) == (name, name)
        process.stdout.close()
        process.stdin.write(b'{"prompt": "nobody reads this"}\n')
        process.stdin.close()
        assert process.stderr.read().splitlines()[1:] == []  # after the line that tells what routes
        assert process.wait(timeout=60) == 1
        watch.cancel()


def test_parts_of_one_lora_are_found_by_their_task_vectors(clora, here, made, tasks):
    """What the method recorded is the default; pictures, tables and the bare choice come as with features."""
    backbone = made[1]
    vectors = [mean_vector(backbone, load_task(str(tasks[name])).train) for name in ("first", "second")]
    write_parts(here / "parts", backbone, ["first", "second"], vectors)
    before = contents(here / "parts")
    sources = ("--data", tasks["first"], "--data", tasks["second"])
    result = clora("route", "parts", *sources, "--confusion", "c.json", "--heatmap", "w.png", *CPU)
    found = lines(result)
    assert "task-vector, top 1, temperature 0.05, decided by input embeddings" in result.err
    assert {one["adapter"] for one in found} <= {"first", "second"}
    assert [list(one["weights"].values()) for one in found] == [[1.0]] * 18
    record = json.loads((here / "c.json").read_text())
    assert record["settings"]["sites"] == ["model.embed_tokens"]
    assert (here / "w.png").stat().st_size > 0
    soft = lines(clora("route", "parts", *sources, "--top-k", 0, "--temperature", 0.5, "--per-site", *CPU))
    assert all(list(one["sites"]) == ["model.embed_tokens"] and len(one["weights"]) == 2 for one in soft)
    names = clora("route", "parts", *sources, "-q", *CPU).out.splitlines()
    assert names == [one["adapter"] for one in found]
    plan = json.loads(clora("route", "parts", *sources, "--dry-run", "--json").out)
    assert (plan["similarity"], plan["sites"]) == ("task-vector", ["model.embed_tokens"])
    assert contents(here / "parts") == before


def test_adapters_without_task_vectors_name_ways_out(clora, package, given):
    given({"text": "x"})
    error = one_error(clora("route", package, "--similarity", "task-vector", *CPU), 3)
    assert (
        "first has no task vector, which only `clora train-task --method cast` gives; or run `clora stat-features"
        in error
    )


def test_a_layer_that_cannot_decide_is_refused(clora, package, given):
    given({"text": "x"})
    chosen = ("--similarity", "task-vector", "--route-layer", "last")
    assert "--route-layer" in one_error(result := clora("route", package, *chosen, *CPU), 2)
    assert result.error == "option-has-no-effect"


@pytest.mark.parametrize("option", ["--heatmap", "--confusion"])
def test_a_folder_where_a_file_is_to_be_is_told_before_anything_is_routed(clora, here, option):
    (here / "there.svg").mkdir()
    result = clora("route", "nowhere", option, "there.svg", "--data", "topics-news")
    assert (result.code, result.error, result.out) == (2, "target-not-regular-file", "")
    assert result.err == f"error: {option} there.svg exists and is no regular file; choose another name\n"
