from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter

import pytest
from refusals import refused

from clora_cli.nano.grammar import Draw
from clora_cli.nano.task_set import ORDER, SPLITS, rows, task

# A change of these is a change of the tasks: scores before and after cannot be compared.
DIGESTS = {
    "topics-news": "fda30e0d6c4eb7d1",
    "sentiment-stars": "e593715e23cc7abb",
    "inference": "d462d37309b0d7da",
    "topics-wiki": "13005e9a1cb8ace2",
    "yes-no": "24d872f89f6fd327",
    "topics-forum": "1d3c252140f25abb",
    "paraphrase": "7451b6cab77ea420",
    "sentiment-binary": "cc45539d91e5744c",
}


@pytest.mark.parametrize("name", ORDER)
def test_rows_are_the_same_everywhere(name):
    every = [rows(name, split) for split in SPLITS]
    assert hashlib.sha256(json.dumps(every).encode()).hexdigest()[:16] == DIGESTS[name]


@pytest.mark.parametrize("name", ORDER)
def test_splits_have_their_sizes_and_share_no_text(name):
    texts = [[text for text, _ in rows(name, split)] for split in SPLITS]
    assert [len(part) for part in texts] == list(SPLITS.values())
    flat = [text for part in texts for text in part]
    assert len(set(flat)) == len(flat)


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("split", SPLITS)
def test_every_label_is_as_frequent_as_every_other(name, split):
    counts = Counter(label for _, label in rows(name, split))
    assert set(counts) == set(task(name).labels)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_labels_of_topic_tasks_differ():
    labels = [set(task(name).labels) for name in ORDER if name.startswith("topics-")]
    assert len(labels) == 3
    assert not labels[0] & labels[1] and not labels[1] & labels[2] and not labels[0] & labels[2]


def test_answers_of_one_task_are_not_prefixes_of_each_other():
    for name in ORDER:
        for label in task(name).labels:
            assert not [other for other in task(name).labels if other != label and other.startswith(label)]


def test_changing_returned_rows_changes_nothing():
    rows("yes-no", "dev").clear()
    assert len(rows("yes-no", "dev")) == SPLITS["dev"]


def test_unknown_names_are_refused_with_the_nearest():
    with refused("unknown-name", "'topic-news'", "'topics-news'"):
        task("topic-news")
    with refused("unknown-name", "bundled task", "'nothing'"):
        rows("nothing", "train")
    with refused("split-missing", "'validation'", "train, dev, test"):
        rows("yes-no", "validation")


def test_tasks_need_no_heavy_library():
    code = "import sys, clora_cli.nano.task_set as t; t.rows('inference', 'test'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_draws_are_fixed_and_within_bounds():
    draw = Draw("seed")
    drawn = [draw.below(10) for _ in range(200)]
    assert drawn[:8] == [8, 8, 1, 0, 6, 5, 0, 6]
    assert set(drawn) == set(range(10))
    assert sorted(Draw("x").shuffled(range(9))) == list(range(9))
    assert Draw("x").shuffled(range(9)) != Draw("y").shuffled(range(9))
    assert all(Draw(str(seed)).one("ab", "a") == "b" for seed in range(20))
