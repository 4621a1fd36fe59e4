"""Configurations of causal models that go on from a beginning that texts share, and of one that does not."""

from __future__ import annotations

import transformers

SIZE = {"vocab_size": 96, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.4}
GEMMA = {**SIZE, "head_dim": 8, "num_key_value_heads": 1}
ALIBI = {"vocab_size": 96, "hidden_size": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.4}
MAMBA = {"mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
# Rotary, learned and linear positions, experts, windows, grouped queries.
FITTING = {
    "llama": transformers.LlamaConfig(**SIZE, num_key_value_heads=1),
    "gpt2": transformers.GPT2Config(
        vocab_size=96, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0
    ),
    "opt": transformers.OPTConfig(**{**SIZE, "ffn_dim": 32, "word_embed_proj_dim": 16}, init_std=0.4, dropout=0),
    "bloom": transformers.BloomConfig(**ALIBI),
    "mixtral": transformers.MixtralConfig(**SIZE, num_key_value_heads=1, num_local_experts=4),
    "gemma2": transformers.Gemma2Config(**GEMMA, sliding_window=16),
    "mistral": transformers.MistralConfig(**SIZE, num_key_value_heads=1, sliding_window=9),
}
EXACT = {"gpt2", "opt"}
UNFIT = {
    "hybrid": transformers.FalconH1Config(**SIZE, num_key_value_heads=1, **MAMBA),
}
