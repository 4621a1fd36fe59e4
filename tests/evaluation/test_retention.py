"""What adapters leave of general ability is told exactly, and nothing is lost where no adapter acts."""

from __future__ import annotations

import json
import math

import pytest
import torch
from refusals import refused
from support import Signals, train, write_task

from clora_cli.base.errors import DataError, OptionError
from clora_cli.data import encode_prompt, load_task
from clora_cli.evaluation import evaluate
from clora_cli.evaluation.retention import probes_of
from clora_cli.model.backbone import load_backbone
from clora_cli.model.bank import AdapterBank
from clora_cli.model.base_model import find_model
from clora_cli.options import EvalOptions
from clora_cli.reporting.limits import broken_limits
from clora_cli.store.package import read_package
from clora_cli.store.scores import read_scores, write_scores


@pytest.fixture(scope="module")
def parts(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("retention")
    model = model_folder("llama")
    task = write_task(folder / "task")
    adapter = train(model, task, folder / "package", epochs=2, lr=0.05)
    return model, load_task(str(task)), adapter, write_task(folder / "probe", seed=7)


def kept(parts, *, members=None, tasks=None, **chosen):
    model, task, adapter, _ = parts
    options = EvalOptions(model=str(model), batch_size=4, **chosen)
    members = [adapter] if members is None else members
    return evaluate(members, [task], options)


def test_the_divergence_is_the_mean_over_all_positions_of_all_prompts(parts):
    model, _, adapter, probe = parts
    found = kept(parts, retention=(str(probe),)).rows[-1].retention[str(probe)]
    backbone = load_backbone(find_model(str(model)), device=torch.device("cpu"))
    bank = AdapterBank(backbone.model)
    nats, tokens = 0.0, 0
    for row in load_task(str(probe)).test:
        ids = torch.tensor([encode_prompt(row, backbone.tokens, kind="causal", max_length=512)])
        logits = []
        for active in ([], [adapter.on(bank.places).deltas()]):
            bank.activate(active)
            with torch.inference_mode():
                logits.append(backbone.model(ids).logits[0].double().log_softmax(dim=-1))
        nats += float((logits[0].exp() * (logits[0] - logits[1])).sum())
        tokens += ids.numel()
    assert found.tokens == tokens
    assert found.divergence == pytest.approx(nats / tokens, rel=1e-4) and found.divergence > 0.01


def test_where_no_adapter_acts_nothing_is_lost(parts):
    row = kept(parts, retention=("general",), combine="none").rows[-1].retention["general"]
    assert row.divergence == 0 and row.before == row.after and (row.lost, row.gained) == (0, 0)
    unknown = kept(parts, retention=("general",), combine="task-id").rows[-1].retention["general"]
    assert unknown.divergence == 0 and unknown.before == unknown.after


def test_inputs_that_choose_are_compared_with_the_base_model_under_what_they_choose(parts, tmp_path):
    model, _, _, probe = parts
    starts = {"first": "", "second": "Quite another thing altogether: "}
    for name, start in starts.items():
        train(model, write_task(tmp_path / name, seed=3, start=start), tmp_path / "package", method="pfd", lr=0.05)
    members = read_package([tmp_path / "package"])

    def found(members, size, combine="route"):
        options = EvalOptions(model=str(model), batch_size=size, retention=(str(probe),), combine=combine)
        return evaluate(members, [load_task(str(tmp_path / "first"))], options).rows[-1].retention[str(probe)]

    alone, summed = (found(members[:1], 4, combine) for combine in ("route", "sum"))
    assert alone.divergence == pytest.approx(summed.divergence, rel=1e-4) and alone.divergence > 1e-4
    assert alone.after == summed.after
    several, one = (found(members, size) for size in (2, 64))
    assert several.divergence == pytest.approx(one.divergence, rel=1e-4) and several.after == one.after
    assert several.divergence != alone.divergence


def test_the_bundled_probe_has_its_answers_among_its_labels_and_no_row_twice():
    (probe,) = probes_of(["general"])
    assert sum(len(task.test) for task in probe.questions) == 123
    for task in probe.questions:
        assert all(row.references[0] in task.labels for row in task.test)
        assert len({row.prompt for row in task.test}) == len(task.test)
    assert len(probe.passages[0].test) == 24


def test_its_rows_are_scored_before_and_after_and_read_back(parts, tmp_path):
    scores = kept(parts, retention=("general", str(parts[3])), matrix=True, test_rows=5)
    assert not scores.rows[0].retention and set(scores.rows[1].retention) == {"general", str(parts[3])}
    found = scores.rows[1].retention["general"]
    assert found.before.total == found.after.total == 123 and found.after.metric == "label-rank"
    assert scores.rows[1].retention[str(parts[3])].after.total == 5
    assert found.before.value - found.after.value == pytest.approx(100 * (found.lost - found.gained) / 123)
    write_scores(scores, tmp_path / "scores.json")
    again = read_scores(tmp_path / "scores.json")
    assert again.rows == scores.rows and again.settings["retention"] == ["general", str(parts[3])]


def test_scores_without_a_probe_are_written_as_before(parts, tmp_path):
    write_scores(kept(parts), tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text())
    assert "retention" not in content["settings"] and "retention" not in content["rows"][0]


def test_an_encoder_decoder_is_compared_at_its_answers(model_folder, tmp_path):
    model, task = model_folder("t5"), write_task(tmp_path / "task")
    adapter = train(model, task, tmp_path / "package", epochs=2, lr=0.05)
    options = EvalOptions(model=str(model), retention=("general",))
    found = evaluate([adapter], [load_task(str(task))], options).rows[-1].retention["general"]
    assert found.divergence > 0 and found.tokens > 123


@pytest.mark.parametrize(("limit", "breaks"), [(0.0, True), (100.0, False)])
def test_the_limit_of_general_loss_names_probe_and_rows(parts, limit, breaks):
    scores = kept(parts, retention=("general",))
    found = scores.rows[-1].retention["general"]
    broken = broken_limits(
        scores, max_general_loss=limit if not breaks else found.before.value - found.after.value - 0.5
    )
    assert bool(broken) is breaks
    if breaks:
        assert f"{found.lost} rows lost" in broken[0] and "'general'" in broken[0]


def test_the_base_model_alone_is_compared_with_nothing_and_that_is_told(parts):
    model, task, _, probe = parts
    listener = Signals()
    scores = evaluate([], [task], EvalOptions(model=str(model), retention=(str(probe),)), progress=listener)
    assert not scores.rows[0].retention and any("none are named" in note for note in listener.notes)


def test_a_damaged_entry_is_refused(parts, tmp_path):
    write_scores(kept(parts, retention=(str(parts[3]),)), tmp_path / "scores.json")
    whole = json.loads((tmp_path / "scores.json").read_text())
    for key, value in {"divergence": -1, "tokens": "many", "after": None, "before": {"value": 3}}.items():
        content = json.loads(json.dumps(whole))
        content["rows"][0]["retention"][str(parts[3])][key] = value
        (tmp_path / "damaged.json").write_text(json.dumps(content))
        with refused("scores-file-damaged", tmp_path / "damaged.json", "retention"):
            read_scores(tmp_path / "damaged.json")


def test_a_probe_that_is_none_is_refused(parts):
    with refused("data-name-empty", "--retention", error=DataError):
        probes_of([" "])
    with refused("option-given-twice", "general", error=OptionError):
        probes_of(["general", "general"])
    with refused("data-not-found", "no-such-task", error=DataError):
        probes_of(["no-such-task"])
    assert math.isfinite(kept(parts, retention=("general",)).rows[-1].retention["general"].divergence)
