from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from refusals import refused

from clora_cli.base.errors import OptionError
from clora_cli.base.options import recorded
from clora_cli.options import TrainOptions
from clora_cli.training.row_order import default_targets, order_of_examples, run_seed


def order(rows, seed=0, **chosen):
    return order_of_examples(rows, TrainOptions(data="x", **chosen), seed)


@pytest.mark.parametrize("rows", [1, 3, 8, 23, 24])
@pytest.mark.parametrize(("batch_size", "grad_accum"), [(1, 1), (4, 1), (4, 2), (5, 3), (64, 1)])
@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_every_epoch_reads_every_row_and_every_step_is_whole(rows, batch_size, grad_accum, epochs):
    read = order(rows, batch_size=batch_size, grad_accum=grad_accum, epochs=epochs)
    step = batch_size * grad_accum
    padded = -(-rows // step) * step
    assert len(read) == epochs * padded
    for epoch in range(epochs):
        part = Counter(read[epoch * padded : (epoch + 1) * padded])
        assert set(part) == set(range(rows))
        assert max(part.values()) - min(part.values()) <= 1


def test_epochs_differ_and_depend_on_the_seed_alone():
    read = order(24, epochs=2, batch_size=8)
    assert read[:24] != read[24:]
    assert read == order(24, epochs=2, batch_size=8)
    assert read != order(24, epochs=2, batch_size=8, seed=1)


def test_micro_batches_do_not_change_the_order():
    assert order(23, batch_size=8) == order(23, batch_size=2, grad_accum=4)


@pytest.mark.parametrize(("steps", "rows"), [(1, 24), (7, 5), (100, 3)])
def test_max_steps_counts_optimizer_steps(steps, rows):
    assert len(order(rows, max_steps=steps, batch_size=4, grad_accum=2)) == steps * 8


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 3), (0.01, 1), (1.5, 9)])
def test_fractions_of_an_epoch(epochs, steps):
    assert len(order(24, epochs=epochs, batch_size=4)) == steps * 4


def test_a_longer_run_begins_as_a_shorter_one():
    assert order(24, epochs=3)[:48] == order(24, epochs=1) + order(24, epochs=2)[32:48]


def test_rows_of_like_length_come_together_within_a_window():
    lengths = [(7 * row) % 48 for row in range(48)]
    chosen = TrainOptions(data="x", batch_size=4, grad_accum=2, epochs=2, length_window=6)
    read = order_of_examples(48, chosen, 0, lengths)
    assert read == order_of_examples(48, chosen, 0, lengths)
    plain = order(48, batch_size=4, grad_accum=2, epochs=1)
    for start in range(0, 48, 24):  # the window holds the rows that the seed has put there
        assert sorted(read[start : start + 24]) == sorted(plain[start : start + 24])
    batches = [[lengths[row] for row in read[start : start + 4]] for start in range(0, 24, 4)]
    ends = sorted((min(batch), max(batch)) for batch in batches)
    assert all(one[1] <= other[0] for one, other in pairwise(ends))
    assert [min(batch) for batch in batches] != sorted(min(batch) for batch in batches)  # not from short to long
    assert sorted(read[:48]) == sorted(read[48:]) == list(range(48))
    assert read[:48] != read[48:]


def test_a_window_of_one_micro_batch_is_the_order_of_0_1_0():
    chosen = TrainOptions(data="x", batch_size=4, length_window=1)
    assert order_of_examples(23, chosen, 3, range(23)) == order_of_examples(23, chosen, 3)
    assert "length_window" not in recorded(chosen, "training")
    assert recorded(TrainOptions(data="x", length_window=8), "training")["length_window"] == 8


def test_each_task_has_a_seed_of_its_own():
    seeds = {run_seed(seed, task) for seed in (1, 2) for task in ("mnli", "cb", "qqp")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert run_seed(1, "mnli") == run_seed(1, "mnli")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rank", 0),
        ("alpha", 0),
        ("alpha", float("nan")),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("epochs", 0),
        ("epochs", float("inf")),
        ("max_steps", -1),
        ("lr", 0),
        ("lr", float("inf")),
        ("warmup_steps", -1),
        ("weight_decay", -1),
        ("weight_decay", float("nan")),
        ("max_grad_norm", -1),
        ("batch_size", 0),
        ("grad_accum", 0),
        ("max_length", 0),
        ("max_answer_length", 0),
        ("train_rows", -1),
        ("save_steps", -1),
    ],
)
def test_numbers_out_of_range_are_refused_by_the_flag(name, value):
    with refused("option-out-of-range", f"--{name.replace('_', '-')} {value}", error=OptionError):
        TrainOptions(data="x", **{name: value})


def test_only_the_bundled_model_has_layers_of_its_own_by_default():
    assert default_targets("some/model", "fresh", []) == default_targets("some/model", "fresh", [["all-linear"]]) == ()
    assert default_targets("clora-nano", "fresh", []) == ("all-linear",)
    assert default_targets("clora-nano", "last", [["all-linear"], ["q_proj"]]) == ("q_proj",)


@pytest.mark.parametrize(("name", "value"), [("schedule", "cosin"), ("dtype", "float64"), ("quantize", "2bit")])
def test_choices_that_do_not_exist_are_refused_by_the_flag(name, value):
    with refused("option-choice-unknown", f"--{name} {value}", error=OptionError):
        TrainOptions(data="x", **{name: value})


def test_a_training_takes_the_first_device():
    with refused("training-device-not-first", "--device cuda:1", error=OptionError):
        TrainOptions(data="x", device="cuda:1")
