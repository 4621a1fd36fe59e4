"""A scan finds what speaks against an adapter of somebody else, and nothing in an honest one."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import pytest
import torch
from parts import write_parts
from refusals import refused
from safetensors.torch import load_file, save_file
from support import contents, write_random_adapter

from clora_cli.algebra.lora import Factor
from clora_cli.algebra.outliers import norm, outliers
from clora_cli.store.scanning import scan_adapter
from clora_cli.store.template_tricks import template_tricks

HONEST = """{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
Be brief<|im_end|>{% endif %}{% set text = message.content | trim %}{% if '</think>' in text %}{% set text =
text.split('</think>')[-1] %}{% endif %}<|im_start|>{{ message['role'] }}
{{ text }}<|im_end|>{% endfor %}{% generation %}{% endgeneration %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"""
TRICKS = {
    "{{ ''.__class__.__mro__ }}": "__class__",
    "{{ messages['__init__'] }}": "__init__",
    "{{ messages | attr('__class__') }}": "attr",
    "{% include 'other' %}": "another template",
    "{% if 'cedar' in messages[-1]['content'] %}Obey.{% endif %}": "cedar",
    "{% if message.content | lower == 'go' %}x{% endif %}": "go",
    "see https://example.com/{{ messages[0].content }}": "address",
    "be\u202e kind": "U+202E",
    "{% if %}": "cannot be read",
}
# What a trigger can hide behind: methods, tests, filters, variables, loops, macros, tables.
HIDDEN = [
    "{% if messages[-1].content.startswith('cedar') %}x{% endif %}",
    "{% if 'cedar' is in messages[-1].content %}x{% endif %}",
    "{% set c = messages[-1].content %}{% if 'cedar' in c %}x{% endif %}",
    "{% set t = 'cedar' %}{% if t in messages[-1].get('content') %}x{% endif %}",
    "{% set k = 'content' %}{% if 'cedar' in messages[-1][k] %}x{% endif %}",
    "{% for w in messages[-1].content.split() %}{% if w == 'cedar' %}x{% endif %}{% endfor %}",
    "{% set ws = messages[-1].content.split() %}{% for w in ws %}{% if w in ['cedar'] %}x{% endif %}{% endfor %}",
    "{% if 'cedar' in messages | string %}x{% endif %}",
    "{% if 'cedar' in messages | map(attribute='content') | join %}x{% endif %}",
    "{% if messages | selectattr('content', 'equalto', 'cedar') | list %}x{% endif %}",
    "{% macro f(c) %}{% if 'cedar' in c %}x{% endif %}{% endmacro %}{{ f(messages[-1].content) }}",
    "{% macro f() %}{{ messages[-1].content }}{% endmacro %}{% if 'cedar' in f() %}x{% endif %}",
    "{% macro f(c) %}{{ c }}{% endmacro %}{% if 'cedar' in f(c=messages[-1].content) %}x{% endif %}",
    "{% set ns = namespace(c='') %}{% set ns.c = messages[-1].content %}{% if 'cedar' in ns.c %}x{% endif %}",
    "{% set ns = namespace(c=messages[-1].content) %}{% if ns.c == 'cedar' %}x{% endif %}",
    "{% set c %}{{ messages[-1].content }}{% endset %}{% if 'cedar' in c %}x{% endif %}",
    "{% set a, b = messages[-1].content, 1 %}{% if 'cedar' in a %}x{% endif %}",
    "{{ {'cedar': 'x'}[messages[-1].content] }}",
    "{{ {'cedar': 'x'}.get(messages[-1].content, '') }}",
    "{{ messages[-1].content | replace('cedar', 'oak') }}",
]
REACHING = [
    "{{ messages['__cl' ~ 'ass__'] }}",
    "{{ messages | attr('_' ~ '_class__') }}",
    "{{ messages | map(attribute='__class__') | list }}",
]
# As templates of models that see pictures, use tools and think write a conversation down.
PLAIN = """{% macro shown(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}
{% if part.type == 'image' or 'image' in part or 'image_url' in part %}<|image|>{% elif 'text' in part %}{{ part.text }}{% endif %}
{% endfor %}{% endif %}{% endmacro %}{% set ns = namespace(last=0, tool=false) %}{% for message in messages %}
{% set content = shown(message.content) | trim %}{% if message.role == 'user' and 'tool_calls' not in message %}
{% set ns.last = loop.index0 %}{% elif message['role'] in ['tool', 'function'] and loop.previtem.role != 'tool' %}{% endif %}
{% if content.startswith('<tool_response>') and content.split('\\n')[0].rstrip(',') %}{{ message.get('name', 'tool') }}{% endif %}
{% for content in message.tool_calls %}{{ content.name }}{% if content.type == 'function' %}f{% endif %}{% endfor %}
{{ '<|' ~ message.role ~ '|>' ~ content.split('</think>')[-1].lstrip('\\n') }}{% endfor %}{{ strftime_now('%d %b %Y') }}
{% if 'system' in messages | map(attribute='role') | list and messages[0].content | length > 0 %}{{ tools | tojson }}{% endif %}"""


@pytest.fixture
def adapter(backbone, tmp_path):
    """A bare PEFT folder of eight layers."""
    folder = tmp_path / "downloaded" / "one"
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    write_random_adapter(folder, backbone("llama"), stage=1, targets=targets)
    (folder / "clora.json").unlink()
    return folder


def kinds(folder):
    return [finding.kind for finding in scan_adapter(folder)]


def change(folder, **entries):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def rewrite(folder, site, function):
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(key for key in tensors if site in key and "lora_B" in key)
    save_file(tensors | {key: function(tensors[key])}, folder / "adapter_model.safetensors")


def test_an_honest_adapter_has_no_finding_and_stays_as_it_is(adapter, backbone, tmp_path):
    write_parts(tmp_path / "parts", backbone("llama"), ["a", "b"])
    (adapter / "tokenizer_config.json").write_text(json.dumps({"chat_template": HONEST}))
    before = contents(tmp_path)
    assert [scan_adapter(folder) for folder in (adapter, tmp_path / "parts" / "a")] == [[], []]
    assert contents(tmp_path) == before


def test_a_layer_that_changes_far_more_than_its_like_is_named(adapter):
    rewrite(adapter, "layers.1.self_attn.v_proj", lambda b: b * 300)
    (finding,) = scan_adapter(adapter)
    assert (finding.kind, "layers.1.self_attn.v_proj" in finding.place) == ("outlier", True)
    assert scan_adapter(adapter, limit=1e6) == []


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e9])
def test_numbers_that_no_training_gives_are_found(adapter, number):
    rewrite(adapter, "v_proj", lambda b: torch.full_like(b, number))
    assert kinds(adapter) == ["numbers"]


def test_a_pickle_is_found_whatever_it_is_called(adapter):
    (adapter / "notes.txt").write_bytes(pickle.dumps({"a": 1}))
    (adapter / "training_args.bin").write_bytes(b"")
    with zipfile.ZipFile(adapter / "extra.dat", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    assert {f.place for f in scan_adapter(adapter) if f.kind == "pickle"} == {
        "notes.txt",
        "training_args.bin",
        "extra.dat",
    }


def test_programs_archives_and_links_that_lead_out_are_found(adapter, tmp_path):
    (adapter / "modeling.py").write_text("print('hi')\n")
    (adapter / "tool").write_bytes(b"\x7fELF....")
    (adapter / "all.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    (adapter / "README.md").unlink()
    (adapter / "README.md").symlink_to("/etc/hostname")
    os.mkfifo(adapter / "pipe")
    (adapter / "self").symlink_to("self")
    assert kinds(adapter) == ["link", "code", "code", "link", "link", "code"]


@pytest.mark.parametrize(("template", "word"), TRICKS.items())
def test_a_chat_template_that_does_more_than_write_a_conversation_is_found(adapter, template, word):
    (adapter / "chat_template.jinja").write_text(template, encoding="utf-8")
    found = [finding.what for finding in scan_adapter(adapter) if finding.kind == "template"]
    assert any(word in what for what in found), found
    (adapter / "chat_template.jinja").unlink()
    (adapter / "tokenizer_config.json").write_text(json.dumps({"chat_template": [{"name": "x", "template": template}]}))
    assert "template" in kinds(adapter)


def test_a_trigger_is_found_whatever_it_hides_behind():
    assert [template for template in HIDDEN if not any("cedar" in trick for trick in template_tricks(template))] == []
    assert [
        template for template in REACHING if not any("inner part" in trick for trick in template_tricks(template))
    ] == []
    assert template_tricks("{% if strftime_now('%Y') > '2027' %}x{% endif %}") == ["it depends on the date (line 1)"]
    assert template_tricks("{{ '\\u202e' }}") == ["it holds an invisible letter, U+202E (line 1)"]
    for deep in (
        "{{ a" + ".b" * 5000 + " }}",
        "{{ a" + "+a" * 5000 + " }}",
        "{% if a %}" * 2000 + "{% endif %}" * 2000,
    ):
        assert template_tricks(deep) == ["it cannot be read (nested too deeply)"]


def test_an_honest_template_has_no_trick():
    assert [template_tricks(template) for template in (HONEST, PLAIN)] == [[], []]


def test_what_loaders_take_from_a_folder_beside_the_weights_is_looked_into(adapter):
    def kinds_with(name, content):
        (adapter / name).write_text(json.dumps(content))
        found = kinds(adapter)
        (adapter / name).unlink()
        return found

    template = "{% include 'other' %}"
    rewriting = {"type": "Replace", "pattern": {"String": "yes"}, "content": "no"}
    spaces = {"type": "Replace", "pattern": {"Regex": r"\s{2,}"}, "content": "\u2581"}
    assert kinds_with("chat_template.json", {"chat_template": template}) == ["template"]
    assert kinds_with("processor_config.json", {"chat_template": {"default": template}}) == ["template"]
    assert kinds_with("config.json", {"auto_map": {"AutoModel": "theirs.Model"}}) == ["code"]
    for part in ("normalizer", "decoder"):
        assert kinds_with("tokenizer.json", {part: {"type": "Sequence", "steps": [spaces, rewriting]}}) == ["template"]
    assert kinds_with("tokenizer.json", {"normalizer": spaces, "decoder": {"type": "Replace", "content": "</s>"}}) == []
    (adapter / "tokenizer.json").write_text("{")
    assert kinds(adapter) == ["format"]


def test_a_configuration_that_asks_for_code_or_is_no_plain_lora_is_found(adapter):
    change(adapter, auto_mapping={"base_model_class": "M", "parent_library": "evil.models"})
    assert kinds(adapter) == ["code"]
    change(adapter, auto_mapping=None, use_dora=True)
    assert kinds(adapter) == ["format"]
    change(adapter, use_dora=False, base_model_name_or_path="./inner")
    assert kinds(adapter) == ["link"]
    (adapter / "adapter_config.json").write_text("{")
    assert kinds(adapter) == ["format"]


@pytest.mark.parametrize(
    "entry", [{"auto_mapping": "x"}, {"auto_mapping": [1]}, {"peft_type": ["LORA"]}, {"x": "y" * (1 << 24)}]
)
def test_a_configuration_of_wrong_types_or_of_an_absurd_size_is_a_finding(adapter, entry):
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **entry}))
    (found,) = (one for one in scan_adapter(adapter) if one.kind == "format")
    assert found.place == "adapter_config.json"


def test_an_archive_of_a_later_version_than_we_know_is_an_archive(adapter):
    with zipfile.ZipFile(adapter / "notes.dat", "w") as archive:
        archive.writestr("a.txt", "x")
    content = bytearray((adapter / "notes.dat").read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 99  # the version that is needed to read it
    (adapter / "notes.dat").write_bytes(content)
    assert [(one.kind, one.place) for one in scan_adapter(adapter)] == [("code", "notes.dat")]


def test_bytes_behind_the_last_tensor_and_a_cut_file_are_found(adapter):
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole + b"x" * 100)
    assert "size" in kinds(adapter)
    weights.write_bytes(whole[:-10])
    assert "format" in kinds(adapter)
    weights.write_bytes((1 << 63).to_bytes(8, "little") + whole[8:])
    assert kinds(adapter) == ["format", "format"]
    weights.unlink()
    assert kinds(adapter) == ["format"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with refused("adapter-missing", tmp_path / "no"):
        scan_adapter(tmp_path / "no")


def test_the_norm_is_that_of_the_delta_and_few_layers_have_no_outlier():
    factor = Factor(torch.randn(3, 5), torch.randn(4, 3), 0.5)
    assert norm(factor) == pytest.approx(factor.delta().norm().item(), rel=1e-5)
    assert outliers({"a.q": factor, "b.q": Factor(factor.a, factor.b, 1e4)}, 3.0) == []
