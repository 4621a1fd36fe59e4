"""What texts share is read once, and changes nothing."""

from __future__ import annotations

import pytest
import torch
import transformers
from causal_models import FITTING, SIZE, UNFIT

from clora_cli.model.continuations import Continuations
from clora_cli.model.prefix import Beginning, alike_up_to, common_beginning, window
from clora_cli.model.sharing import Sharing

START = [5, 6, 7, 8, 9, 10, 11]
TEXTS = [START + [20 + row + place for place in range(3 + row % 4)] for row in range(40)]
LABELS = [[30, 2], [30, 31, 2], [30, 31, 32, 2], [33, 2], [2]]
WIDE = {
    **FITTING,
    "mistral": transformers.MistralConfig(**SIZE, num_key_value_heads=1, sliding_window=24),
    "gemma2": transformers.Gemma2Config(**SIZE, head_dim=8, num_key_value_heads=1, sliding_window=24),
}
# Whose layers normalise, or take a softmax, in float32 whatever their type.
ROUNDED = set(WIDE) - {"gpt2", "opt", "bloom"}


def model_of(config):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation="eager").double().eval()
    return model.requires_grad_(False)


def alone(model, text, label):
    """Return a label's log-likelihood after a text, from both alone."""
    logits = model(input_ids=torch.tensor([[*text, *label[:-1]]]), use_cache=False).logits[0, len(text) - 1 :]
    return logits.log_softmax(-1)[range(len(label)), label].sum()


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("name", sorted(set(WIDE) - {"bloom"}))
def test_labels_behind_a_text_have_the_likelihoods_of_single_texts(name, begins):
    model = model_of(WIDE[name])
    sharing, tree = Sharing(model), Continuations(LABELS, model.device)
    assert sharing.packs(TEXTS, LABELS, len(tree.nodes))
    assert len(tree.nodes) == 4  # 30, 30 31, 30 31 32, 33
    begun = sharing.begin(TEXTS) if begins else None
    assert (begun is not None and begun.ids == START) is begins
    found = tree.likelihoods(model, TEXTS[:5], begun)
    expected = torch.stack([torch.stack([alone(model, text, label) for label in LABELS]) for text in TEXTS[:5]])
    assert found.dtype == torch.float64
    tolerance = 1e-5 if name in ROUNDED else 1e-10
    assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("side", [0, 1])
def test_a_model_goes_on_from_a_beginning_whatever_pads_the_rest(name, side):
    model = model_of(WIDE[name])
    sharing = Sharing(model)
    begun = sharing.begin(TEXTS)
    assert begun.ids == START
    batch = {"input_ids": torch.tensor([[20, 21, 22], [20, 22, 22]]), "attention_mask": torch.ones(2, 3).long()}
    batch["attention_mask"][1, 2 if side else 0] = 0
    found = model(**begun.before(batch, sharing.positions), use_cache=True).logits
    for row in range(2):
        kept = batch["attention_mask"][row].bool()
        whole = model(input_ids=torch.tensor([[*START, *batch["input_ids"][row][kept].tolist()]])).logits[0, 7:]
        assert torch.allclose(found[row][kept], whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (transformers.GPTNeoConfig(window_size=20), 20),
        (transformers.MistralConfig(sliding_window=21), 21),
        (transformers.Llama4TextConfig(attention_chunk_size=22), 22),
        (transformers.DogeConfig(keep_window_size=23), 23),
        (transformers.ModernBertDecoderConfig(local_attention=24), 12),
        (transformers.Qwen2Config(use_sliding_window=False), 1 << 30),
        (transformers.LlamaConfig(), 1 << 30),
    ],
)
def test_a_window_is_found_whatever_a_configuration_calls_it(config, size):
    assert window(config) == size


def test_labels_stand_behind_no_text_that_a_window_would_not_reach_from_there():
    config = transformers.GPTNeoConfig(
        vocab_size=96, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]
    )
    config.window_size, config.initializer_range = 14, 0.4
    model = model_of(config)
    sharing, tree = Sharing(model), Continuations(LABELS, model.device)
    texts = [text[:10] for text in TEXTS]
    assert sharing.packs(texts, LABELS, len(tree.nodes))
    found = tree.likelihoods(model, texts[:2])
    expected = torch.stack([torch.stack([alone(model, text, label) for label in LABELS]) for text in texts[:2]])
    assert torch.allclose(found, expected)
    longer = [[*text, 30] for text in texts]  # 11 tokens and 4 nodes
    assert not sharing.packs(longer, LABELS, len(tree.nodes))
    assert not torch.allclose(
        tree.likelihoods(model, longer[:1])[0], torch.stack([alone(model, longer[0], label) for label in LABELS])
    )


def test_a_model_that_asserts_what_masks_it_takes_reads_labels_one_by_one(monkeypatch):
    model = model_of(WIDE["gpt2"])
    plain = model.forward

    def forward(input_ids, attention_mask, position_ids=None, **given):
        if attention_mask.ndim != 2:
            raise AssertionError
        return plain(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **given)

    monkeypatch.setattr(model, "forward", forward)
    assert not Sharing(model).packs(TEXTS, LABELS, 4)


@pytest.mark.parametrize("name", UNFIT)
def test_texts_of_a_model_with_a_running_state_are_read_whole(name):
    assert Sharing(model_of(UNFIT[name])).begin(TEXTS) is None


def test_labels_do_not_stand_behind_texts_whose_model_counts_positions_by_the_mask():
    sharing = Sharing(model_of(WIDE["bloom"]))
    assert not sharing.packs(TEXTS, LABELS, 4)
    assert sharing.begin(TEXTS).ids == START


def test_a_window_that_does_not_reach_all_of_a_text_ends_the_sharing():
    sharing = Sharing(model_of(transformers.MistralConfig(**SIZE, num_key_value_heads=1, sliding_window=15)))
    assert max(map(len, TEXTS)) == 13
    assert sharing.begin(TEXTS, more=2).ids == START
    assert sharing.begin(TEXTS, more=3) is None
    assert sharing.packs(TEXTS, LABELS[1:2], 2)
    assert not sharing.packs(TEXTS, LABELS, 4)


def test_a_model_that_answers_otherwise_reads_texts_whole(monkeypatch):
    model = model_of(WIDE["llama"])
    plain = model.model.forward

    def forward(input_ids=None, **given):
        given.pop("position_ids", None)  # every pass counts from what it has read, padding or not
        return plain(input_ids=input_ids, **given)

    monkeypatch.setattr(model.model, "forward", forward)
    assert Sharing(model).begin(TEXTS) is None
    assert not Sharing(model).packs(TEXTS, LABELS, 4)


def test_one_text_with_one_label_does_not_vouch_for_labels_side_by_side(monkeypatch):
    model = model_of(WIDE["llama"])
    plain = model.model.forward

    def forward(attention_mask=None, **given):  # as attention of a kind that takes no mask but its own
        return plain(attention_mask=None, **given)

    monkeypatch.setattr(model.model, "forward", forward)
    sharing = Sharing(model)
    assert not sharing.packs(TEXTS[:1], [[30, 2]], 1)
    assert not sharing.packs(TEXTS, LABELS, 4)


def test_texts_that_are_all_alike_do_not_vouch_for_padded_ones(monkeypatch):
    model = model_of(WIDE["gpt2"])
    plain = model.transformer.forward

    def forward(attention_mask=None, **given):
        return plain(attention_mask=None, **given)

    monkeypatch.setattr(model.transformer, "forward", forward)
    alike = [[*START, 20]] * 40
    assert Sharing(model).begin(alike) is None


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_texts_of_one_token_and_labels_of_one_are_tried_out_as_others_are(name):
    sharing = Sharing(model_of(WIDE[name]))
    assert sharing.packs([[5]], [[2]], 0)
    assert sharing.packs(TEXTS, LABELS, 4)
    assert sharing.begin([[*START, 20]] * 40).ids == START


def test_what_is_switched_off_is_not_shared():
    sharing = Sharing(model_of(WIDE["llama"]))
    sharing.shares = False
    assert sharing.begin(TEXTS) is None
    assert not sharing.packs(TEXTS, LABELS, 4)


def test_little_is_not_read_apart():
    sharing = Sharing(model_of(WIDE["llama"]))
    assert sharing.begin(TEXTS[:2]) is None  # less than trying it out costs
    assert sharing.begin([[row, *text] for row, text in enumerate(TEXTS)]) is None
    assert sharing.begin([]) is None


def test_what_is_added_behind_a_beginning_is_in_no_other_cache():
    model = model_of(WIDE["llama"])
    begun = Beginning.read(model, START)
    first = begun.cache(2)
    model(input_ids=torch.tensor([[20], [21]]), past_key_values=first, use_cache=True)
    assert first.get_seq_length() == 8
    assert begun.cache(3).get_seq_length() == 7
    assert begun.cache(3).layers[0].keys.shape[0] == 3


def test_the_last_token_of_the_shortest_text_is_not_shared():
    assert common_beginning([[5, 6, 7], [5, 6, 8]]) == 2
    assert common_beginning([[5, 6], [5, 6, 8]]) == 1
    assert common_beginning([[4, 6], [5, 6, 8]]) == 0


def test_positions_that_a_text_s_length_changes_end_the_sharing_there():
    assert alike_up_to(WIDE["llama"]) > 10**6
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = transformers.LlamaConfig(**SIZE, max_position_embeddings=9, rope_parameters=dynamic)
    assert alike_up_to(config) == 9
    assert Sharing(model_of(config)).begin(TEXTS) is None
