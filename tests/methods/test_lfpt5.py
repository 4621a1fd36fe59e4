"""LFPT5: one soft prompt that goes on, writes rows of earlier tasks and keeps its answers to them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from support import options_for, train, trainer_for

from clora_cli.data import Example
from clora_cli.methods import Batch
from clora_cli.methods.lfpt5 import Lfpt5
from clora_cli.model.drawing import Draw
from clora_cli.model.generation import write
from clora_cli.training import make_plan
from clora_cli.training.build import build
from clora_cli.training.fit import encoded_rows, methods_of
from clora_cli.training.previous import last_prompt_logits
from clora_cli.training.prompting import last_prompt

SMALL = {"method": "lfpt5", "method_options": {"tokens": "3"}}


def test_by_hand():
    # Two rows of one answer token; the second is a made one, whose old chances are (1/2, 1/2) and new ones (1/4, 3/4).
    old, new = torch.tensor([[0.0, 5.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 3.0]]).log()
    run = SimpleNamespace(memory=range(4, 6), previous=lambda batch: old)
    labels = torch.tensor([[-100, 1], [-100, 0]])
    batch = Batch({"labels": labels}, torch.tensor([0, 4]), new, torch.tensor([1, 0]), 5)
    divergence = 0.5 * torch.tensor([2.0, 2 / 3]).log().sum()
    assert Lfpt5(strength=0.0, hold=0.3).loss(run, batch).item() == pytest.approx(0.3 * divergence.item() / 5)
    assert Lfpt5(strength=0.0).loss(SimpleNamespace(memory=range(4, 4)), batch) is None


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_old_prompt_stays_where_it_was_while_the_new_one_moves(model_folder, tasks, tmp_path, family):
    """In the published code both share their memory: the divergence between them is 0 for ever."""
    train(model_folder(family), tasks["first"], tmp_path / "adapters", lr=0.1, **SMALL)
    plan = make_plan(options_for(model_folder(family), tasks["second"], tmp_path / "adapters", **SMALL))
    built = build(plan)
    moments = methods_of(plan, built, encoded_rows(plan, built))
    moments.begin(None, SimpleNamespace(warn=lambda text: None))
    batch = next(iter(trainer_for(plan, built).get_train_dataloader()))
    rows = batch.pop("row")
    if family == "t5":
        batch["decoder_input_ids"] = built.backbone.tokens.decoder_inputs(batch["labels"])
    given = built.promptings[0].before(rows, batch)
    old = last_prompt_logits(built, given)
    (run,) = moments._runs.values()

    def new():
        with torch.no_grad():
            logits = built.model(**{name: value for name, value in given.items() if name != "labels"}).logits
        labels = given["labels"] if family == "t5" else given["labels"][:, 1:]
        return logits[:, : labels.shape[1]][labels != -100]

    assert torch.allclose(new(), old, atol=1e-4)  # a task begins with the last one's prompt
    with torch.no_grad():
        run.own["prompt"].add_(1.0)
    assert torch.equal(last_prompt_logits(built, given), old) and not torch.allclose(new(), old, atol=1e-2)


def test_rows_are_written_with_the_last_prompt_before_them(backbone):
    """A soft prompt of the vectors of a text's tokens writes what comes after that text."""
    base = backbone("llama")
    ids = base.tokenizer("a boat was so", add_special_tokens=False)["input_ids"]
    vectors = base.model.get_input_embeddings().weight[ids].detach().clone()
    texts, draws = [Example("[first]", "", "", ())] * 3, [Draw(temperature=1.0, seed=seed) for seed in range(3)]
    how = {"most": 8, "max_length": 64, "batch_size": 2}
    with last_prompt(base, vectors) as before:
        found = write(base, texts, draws, before=before, **how)
    assert found == write(base, texts, draws, before=ids, **how) != write(base, texts, draws, **how)
    with last_prompt(base, None) as before:
        assert not before


def test_a_task_goes_on_from_the_last_prompt_and_rehearses(model_folder, tasks, tmp_path):
    first = train(model_folder("llama"), tasks["first"], tmp_path / "adapters", lr=0.1, **SMALL)
    second = train(model_folder("llama"), tasks["second"], tmp_path / "adapters", lr=1e-12, **SMALL)
    assert torch.allclose(first.prompt(), second.prompt(), atol=1e-6)
    assert second.manifest.scores["rehearsed"]["first"]["wanted"] == 5
    with refused("method-state-missing", first.path, "4 tokens"):
        longer = {"method": "lfpt5", "method_options": {"tokens": "4"}}
        make_plan(options_for(model_folder("llama"), tasks["third"], tmp_path / "adapters", **longer))
