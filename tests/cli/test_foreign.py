"""Commands that are given other tools' adapters."""

from __future__ import annotations

from other_models import edit, peft_adapter, save_other
from support import one_line


def test_show_names_what_lies_beside_the_factors(tmp_path, clora):
    adapter = peft_adapter("llama", tmp_path / "theirs", ["q_proj", "lm_head"])
    assert "beside   lm_head.weight of the base model" in clora("show", adapter).out


def test_an_unknown_layer_is_refused_with_both_spellings_before_anything_runs(tmp_path, clora):
    base = save_other("llama", tmp_path / "base")
    adapter = peft_adapter("llama", tmp_path / "theirs", ["q_proj"])
    edit(adapter, lambda tensors: {key.replace("self_attn", "attention"): t for key, t in tensors.items()})
    result = clora("eval", adapter, "-m", base, "--data", "yes-no", "--test-rows", 2)
    assert result.code == 4
    line = one_line(result)
    assert "'model.layers.0.attention.q_proj'" in line
    assert "'model.layers.0.self_attn.q_proj'" in line
    assert str(adapter) in line
