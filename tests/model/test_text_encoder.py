"""What a text encoder's one site gives is the mean of the last hidden states, for every kind of model."""

from __future__ import annotations

import pytest
import torch
from refusals import refused

from clora_cli.data import Example
from clora_cli.model.features import prompt_ids, read_features
from clora_cli.model.text_encoder import EMBEDDING, embedding_width, find_text_encoder, load_text_encoder

TEXTS = ("a quiet film was again 32", "the rather long story of a boat that left the harbour", "good")
EXAMPLES = [Example("Is it good? ", text, "\nAnswer:", ()) for text in TEXTS]


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "encoder-decoder", "bert"])
@pytest.mark.parametrize("pool", ["prompt-mean", "last"])
def test_embeddings_are_those_of_transformers_pooled_by_hand(model_folder, family, pool):
    reference = find_text_encoder(str(model_folder(family)))
    encoder = load_text_encoder(reference, device=torch.device("cpu"))
    ids = prompt_ids(encoder, EXAMPLES)
    found = torch.empty(len(ids), embedding_width(reference))
    for rows, features in read_features(encoder, ids, [EMBEDDING], pool=pool, batch_size=2):
        found[rows] = features[EMBEDDING]
    whole = encoder.loaded.model
    body = whole.get_encoder() if reference.kind == "seq2seq" else whole.base_model
    for tokens, one in zip(ids, found, strict=True):
        with torch.no_grad():
            states = body(input_ids=torch.tensor([tokens])).last_hidden_state[0]
        expected = states.mean(dim=0) if pool == "prompt-mean" else states[-1]
        assert torch.allclose(one, expected, atol=1e-5)
    assert ids == [encoder.tokens.ids(example.prompt, special=True) for example in EXAMPLES]


def test_a_model_of_images_is_refused(vit):
    with refused("text-encoder-sees-images", str(vit)):
        find_text_encoder(str(vit))
