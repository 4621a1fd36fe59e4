from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from support import options_for, run_of, train, write_random_adapter

from clora_cli.evaluation.synthesis import synthesize
from clora_cli.evaluation.synthesis_plan import plan_synthesis
from clora_cli.methods import MadeRow, Text
from clora_cli.methods._written_rows import _cue, _parted, _whole
from clora_cli.methods.lamol import Lamol
from clora_cli.options import SynthesizeOptions
from clora_cli.store.package import read_package
from clora_cli.training import make_plan
from clora_cli.training.build import build


def batch_of(tokens):
    labels = torch.tensor([[-100, 5, 6], [-100, -100, 7]])
    return SimpleNamespace(rows=torch.tensor([1, 0]), inputs={"labels": labels}, tokens=tokens)


def test_by_hand():
    # rows of two and one answer tokens, whole-row losses 3 and 2, in a step of 6 answer tokens: (2 * 3 + 1 * 2) / 6, a quarter of it
    seen = []
    run = SimpleNamespace(
        texts=[Text("new", "q0", "a0"), Text("old", "q1", "a1")],
        text_losses=lambda texts: seen.extend(texts) or torch.tensor([3.0, 2.0]),
    )
    assert Lamol().loss(run, batch_of(6)).item() == pytest.approx(0.25 * 8 / 6)
    assert seen == [("[old]", "q1 The answer is: a1"), ("[new]", "q0 The answer is: a0")]
    assert Lamol(strength=0.0).loss(run, batch_of(6)) is None


def test_a_question_that_ends_with_a_line_of_its_own_needs_no_other_mark():
    assert [_cue(text) for text in ("a\nAnswer:", "a: b\nOutput: ", "Answer:", "a Answer:", "a\nb", "a\n" + "b" * 41 + ":")] == [
        "Answer:", "Output:", "", "", "", "",
    ]  # fmt: skip
    assert _whole(Text("t", "a\nAnswer:", "b")) == "a\nAnswer: b"
    assert _parted("a\nAnswer: b", ["Answer:"]) == _parted("a answer:b", ["", "Answer:"]) == MadeRow("a\nAnswer:", "b")
    assert _parted("a\nAnswer: b\nAnswer: c", ["Answer:"]) is _parted("Answer: b", ["Answer:"]) is None
    assert _parted("a The answer is: b", ["Answer:", ""]) == MadeRow("a", "b")


def test_rows_are_written_from_their_own_task_s_name_and_parted_at_the_mark():
    asked = {}

    def written(beginning, draw, *, count, most):
        asked.update(beginning=beginning, top_k=draw.top_k, count=count, most=most)
        return [
            "a The answer is: b",
            "a The answer is: c",
            "no mark",
            "x the answer is: y z",
            "The answer is: b",
            "q The answer is:",
            "a The answer is: b The answer is: c",
        ]

    earlier = SimpleNamespace(task="old", state=lambda: {"longest": torch.tensor(17)})
    found = Lamol().rehearse(earlier, 7, SimpleNamespace(written=written))
    assert asked == {"beginning": "[old]", "top_k": 20, "count": 7, "most": 17}
    assert found == [MadeRow("a", "b"), MadeRow("x", "y z")]


def test_the_loss_reaches_the_questions(model_folder, tasks, tmp_path):
    """What public code for larger models lacks: without it nothing learns to write an earlier task's rows."""
    plan = make_plan(options_for(model_folder("llama"), tasks["first"], tmp_path / "adapters", method="lamol"))
    built = build(plan)
    run = run_of(plan, built)
    pairs = [("[first]", "one two"), ("[first]", "one two three The answer is: great")]
    losses = run.text_losses(pairs)
    tokenizer = built.backbone.tokenizer
    for (beginning, text), loss in zip(pairs, losses, strict=True):
        ids = tokenizer(f"{beginning} {text}", return_tensors="pt")["input_ids"]
        ids = torch.cat([ids, torch.tensor([[built.backbone.tokens.end()]])], dim=1)
        read = len(tokenizer(beginning)["input_ids"])
        with torch.no_grad():
            chances = built.model(input_ids=ids).logits[0, :-1].log_softmax(dim=-1)
        expected = -chances[range(len(ids[0]) - 1), ids[0, 1:]][read - 1 :].mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    losses.sum().backward()
    assert all(float(factor.b.grad.abs().sum()) > 0 for factor in run.trainable.values())
    # The method's own term is of whole rows, whose questions count as much as their answers.
    row = run.texts[0]
    (whole,) = run.text_losses([("[first]", f"{row.question} {row.answer}")])
    batch = SimpleNamespace(rows=torch.tensor([0]), inputs={"labels": torch.tensor([[-100, 5]])}, tokens=1)
    assert plan.method.lead.loss(run, batch).item() == pytest.approx(0.25 * whole.item(), rel=1e-5)


def test_what_was_learned_is_rehearsed(model_folder, tasks, tmp_path):
    """A model that has learned a task well writes rows of it that are its rows; the next task, and the command, have them."""
    data = tmp_path / "few.jsonl"
    known = {"a boat": "great", "our song": "so so", "it was": "so so"}
    data.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in known.items()) * 3)
    how = {"method": "lamol", "rank": 8, "alpha": 16, "target_modules": ("all-linear",), "batch_size": 9}
    how |= {"method_options": {"strength": "1", "share": "0.5"}}
    train(model_folder("llama"), data, tmp_path / "adapters", max_steps=120, lr=2e-2, **how)
    out = tmp_path / "pseudo.jsonl"
    plan = plan_synthesis(
        read_package([tmp_path / "adapters"]), SynthesizeOptions(rows=12, out=out, device="cpu", task=("few",))
    )
    synthesize(plan)
    written = {row["prompt"]: row["completion"] for row in map(json.loads, out.read_text().splitlines())}
    assert written.items() & {(f"{text}\nAnswer:", label) for text, label in known.items()}
    folder = train(model_folder("llama"), tasks["first"], tmp_path / "adapters", max_steps=2, **how)
    made = folder.manifest.scores["rehearsed"]["few"]
    assert made["wanted"] == 12 and made["rows"] >= 1
    assert folder.manifest.raw["data"]["memory"] == [{"name": "few", "split": "train", "limit": 12, "made": True}]


def test_adapters_that_did_not_learn_to_write_are_refused(model_folder, tasks, backbone, tmp_path):
    write_random_adapter(tmp_path / "adapters" / "second", backbone("llama"), stage=1)
    with refused("method-state-missing", tmp_path / "adapters" / "second", "lamol"):
        make_plan(options_for(model_folder("llama"), tasks["first"], tmp_path / "adapters", method="lamol", alpha=4))
