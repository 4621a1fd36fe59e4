"""Answers without HTTP: they are eval's, each prompt's own, and of one version of the package."""

from __future__ import annotations

import json
import shutil

import pytest
from parts import write_parts
from refusals import refused
from routed import give_distribution, write_routable
from served import Heard, answered, asked, service_of
from support import FAMILIES, write_random_adapter

from clora_cli.data import load_task
from clora_cli.evaluation.answers import generate
from clora_cli.evaluation.combine import Fixed, Routed, active
from clora_cli.evaluation.prompts import Prompts
from clora_cli.model.bank import AdapterBank
from clora_cli.model.features import prompt_ids
from clora_cli.options import ServeOptions
from clora_cli.routing.route_settings import route_options
from clora_cli.serving import watch
from clora_cli.serving.asked import Choice, read_choice
from clora_cli.serving.bodies import forwarded
from clora_cli.serving.refusal import Refusal
from clora_cli.serving.service import Service
from clora_cli.store.package import read_package

PROMPTS = ("the boat was great today", "a quiet film", "our lunch seemed so so in the end", "this long book")


def of_eval(base, package, examples, combine="route", **options):
    """Return the answers that ``clora eval`` gives, of six tokens."""
    bank = AdapterBank(base.model)
    members = [member.on(bank.places) for member in read_package([package])]
    ids = prompt_ids(base, examples)
    prompts = Prompts(base, examples, ids, [], 64, room=6)
    routed = combine == "route"
    how = Routed(base, bank, members, route_options(members, options)) if routed else Fixed(bank, members, combine)
    prompts, before = how.use(active(members, combine, ""), prompts)
    found = generate(prompts, 6, lambda rows: None, before)
    bank.clear()
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", ["base", "adapted"])
def test_answers_are_those_of_eval_row_for_row(made, tasks, family, source):
    package, base = made(family, source=source)
    examples = [row for name in ("third", "first") for row in load_task(str(tasks[name])).test]
    expected = of_eval(base, package, examples)
    service = service_of(package, batch_size=4)
    heard = answered(service, [asked(one) for one in examples])
    assert [one.text for one in heard] == expected
    assert {one.verdict.adapter for one in heard} <= {"first", "second"}
    assert len(set(expected)) > 3


@pytest.mark.parametrize("options", [{"top_k": 2, "similarity": "l2", "temperature": 50.0}, {"similarity": "cosine"}])
def test_soft_mixtures_and_other_routers_are_those_of_eval(made, tasks, options):
    package, base = made()
    examples = load_task(str(tasks["second"])).test
    heard = answered(service_of(package, **options), [asked(one) for one in examples])
    assert [one.text for one in heard] == of_eval(base, package, examples, **options)
    if "top_k" in options:
        assert all(len(one.verdict.used) == 2 for one in heard)


def test_adapters_of_one_lora_known_by_task_vectors_answer_as_in_eval(tmp_path, backbone, tasks):
    base = backbone("llama")
    package = write_parts(tmp_path / "adapters", base, ("first", "second", "third"))
    examples = load_task(str(tasks["first"])).test
    heard = answered(service_of(package), [asked(one) for one in examples])
    assert [one.text for one in heard] == of_eval(base, package, examples)
    assert "task-vector" in heard[0].verdict.reason


@pytest.mark.parametrize("combine", ["sum", "last"])
def test_auto_can_be_all_adapters_or_the_last(made, tasks, combine):
    package, base = made()
    examples = load_task(str(tasks["third"])).test
    heard = answered(service_of(package, combine=combine), [asked(one) for one in examples])
    assert [one.text for one in heard] == of_eval(base, package, examples, combine)
    assert heard[0].verdict.reason == f"--combine {combine}"


def test_a_mixed_batch_gives_each_prompt_what_it_gets_alone(made):
    package, _ = made()
    service = service_of(package)
    models = [
        "auto",
        "base",
        "first",
        f"{service.base}:second",
        ["first", {"name": "second", "scale": 0.5}],
        "base:first",
    ]
    batch = [(prompt, model, number) for number, prompt in enumerate(PROMPTS) for model in models]
    drawn = {"temperature": 1.5, "top_p": 0.9}
    ways = [{}, {"seed": 3, **drawn}, {"tokens": 2}, {"seed": 4, **drawn}]

    def one_of(prompt, model, number):
        return asked(prompt, model, **ways[number])

    together = answered(service, [one_of(*one) for one in batch])
    alone = [answered(service, [one_of(*one)])[0] for one in batch]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.verdict for one in together] == [one.verdict for one in alone]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    by_model = {
        str(model): [one.text for one, row in zip(alone, batch, strict=True) if row[1] == model] for model in models
    }
    assert by_model["first"] == by_model["base:first"]
    assert len({tuple(texts) for texts in by_model.values()}) >= 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"top_k": 2, "temperature": 50.0}])
def test_a_pass_that_decides_by_copies_gives_what_two_passes_give(made, monkeypatch, family, options):
    package, base = made(family)
    models = ["auto", "base", "auto", "first"]

    def found(passes):
        monkeypatch.setattr("clora_cli.serving.service._PASSES", passes)
        service, seen = service_of(package, **options), []
        beside = service.held.place_beside
        monkeypatch.setattr(service.held, "place_beside", lambda *given: seen.append(len(given[1])) or beside(*given))
        batch = [
            asked(prompt, model, tokens=4 + row)
            for row, (prompt, model) in enumerate(zip(PROMPTS, models, strict=True))
        ]
        heard = answered(service, batch)
        again = answered(service, [asked(PROMPTS[3]), asked(PROMPTS[1], tokens=1)])
        return [(one.text, one.verdict, one.tokens, one.reason) for one in (*heard, *again)], sum(seen)

    (one_pass, copies), (two_passes, none) = found(1000), found(0)
    assert one_pass == two_passes
    assert (copies, none) == (4 if base.kind == "causal" else 0, 0)


@pytest.mark.parametrize(
    ("options", "how"),
    [({"abstain": 0.05}, {}), ({"route_layer": "last"}, {}), ({}, {"text": "body"})],
)
def test_what_a_pass_cannot_decide_as_it_goes_is_decided_before(made, options, how):
    package, _ = made(**how)
    service = service_of(package, **options)
    assert not service.held.decides_beside([1] * 5)
    assert answered(service, [asked(PROMPTS[0])])[0].verdict is not None


def test_a_request_that_makes_the_model_compute_no_numbers_ends_its_own_answer_alone(made):
    package, base = made()
    shutil.rmtree(package / "second")
    write_random_adapter(package / "second", base, stage=2, factor=1e4)
    service = service_of(package, dtype="float16")
    models = ["first", {"name": "second", "scale": 1000}, "base", {"name": "second", "scale": -1000}]
    odd, ways = (1, 3), ({}, {"eager": True}, {"temperature": 1.0, "seed": 1}, {"temperature": 1.0})
    batch = [asked(PROMPTS[0], model, **way) for model, way in zip(models, ways, strict=True)]
    alone = [answered(service, [asked(PROMPTS[0], models[row], **ways[row])])[0].text for row in (0, 2)]
    heard = answered(service, batch)
    assert [heard[row].text for row in (0, 2)] == alone and all(alone)
    assert [one.error and one.error.code for one in heard] == [
        "outputs-not-finite" if row in odd else None for row in range(4)
    ]


def test_the_smallest_temperature_draws_the_likeliest_token(made):
    service = service_of(made()[0])
    ways = ({}, {"temperature": 5e-324}, {"temperature": 5e-324, "seed": 1, "top_p": 0.5})
    assert len({one.text for one in answered(service, [asked(PROMPTS[0], "base", **way) for way in ways])}) == 1


def test_draws_follow_their_seed(made):
    service = service_of(made()[0])

    def drawn(seed):
        return answered(service, [asked(PROMPTS[0], "base", tokens=20, temperature=2.0, seed=seed)])[0].text

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) == 4
    greedy = answered(service, [asked(PROMPTS[0], "base", tokens=20)])[0].text
    assert answered(service, [asked(PROMPTS[0], "base", tokens=20, temperature=1.0, top_p=1e-9)])[0].text == greedy


def test_parts_add_up_and_a_stop_ends_an_answer_before_it(made):
    service = service_of(made()[0])
    (whole,) = answered(service, [asked(PROMPTS[0], "first", tokens=30)])
    assert len(whole.parts) == 1
    (parts,) = answered(service, [asked(PROMPTS[0], "first", tokens=30, eager=True)])
    assert parts.text == whole.text and len(parts.parts) > 5
    stop = whole.text[8:11]
    for eager in (False, True):
        (cut,) = answered(service, [asked(PROMPTS[0], "first", tokens=30, stop=(stop,), eager=eager)])
        assert cut.text == whole.text[: whole.text.index(stop)].rstrip()
        assert cut.reason == "stop"
    assert whole.reason == "length" and whole.tokens[1] == 30


def test_what_is_no_longer_wanted_ends_and_the_others_go_on(made):
    service = service_of(made()[0])
    (whole,) = answered(service, [asked(PROMPTS[1], "first", tokens=12)])
    left = Heard(after=2)
    batch = [asked(PROMPTS[0], tokens=40, eager=True, heard=left), asked(PROMPTS[1], "first", tokens=12)]
    heard = answered(service, batch)
    assert len(left.parts) == 2 and not left.reason
    assert heard[1].text == whole.text


def test_a_far_prompt_goes_to_the_base_model_and_the_answer_says_so(made, tasks):
    package, _ = made()
    service = service_of(package, abstain=0.3, calibrate=(str(tasks["first"]), str(tasks["second"])), similarity="l2")
    examples = [row for name in ("first", "second") for row in load_task(str(tasks[name])).dev]
    heard = answered(service, [asked(one) for one in examples])
    far = [one for one in heard if one.verdict.adapter is None]
    assert 0 < len(far) < len(heard)
    assert all("too far from every adapter" in one.verdict.reason and one.verdict.confidence == 0 for one in far)
    named = answered(service, [asked(row, "base") for row, one in zip(examples, heard, strict=True) if one in far])
    assert [one.text for one in far] == [one.text for one in named]


def test_one_bad_prompt_spoils_no_other(made):
    service = service_of(made()[0], max_length=40)
    batch = [asked(PROMPTS[0]), asked("word " * 100), asked(PROMPTS[1], "unknown"), asked(PROMPTS[2], {"name": 3})]
    good, long, unknown, malformed = answered(service, batch)
    assert good.text and good.error is None
    codes = [one.error.code for one in (long, unknown, malformed)]
    assert codes == ["prompt-too-long", "unknown-name", "served-model-malformed"]


def test_where_positions_end_an_answer_is_no_shorter_for_its_neighbours(made):
    package, _ = made("gpt2")
    service = service_of(package)
    batch = [asked("word " * 60, "first", tokens=40), asked("short", "first", tokens=200)]
    together = answered(service, batch)
    alone = [
        answered(service, [asked(one.input.example, "first", tokens=one.decoding.max_new_tokens)])[0] for one in batch
    ]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert [one.text for one in together] == [one.text for one in alone]


def test_only_routing_tells_the_weights_of_every_site(made):
    service = service_of(made()[0])
    (heard,) = answered(service, [asked(PROMPTS[0], only_route=True)])
    assert set(heard.verdict.weights) == {"first", "second"}
    assert sum(heard.verdict.weights.values()) == pytest.approx(1, abs=1e-5)
    assert len(heard.verdict.sites) == 4
    assert heard.text == "" and heard.error is None


def test_a_task_that_lands_answers_the_next_prompt_and_one_that_goes_answers_none(made, tasks, monkeypatch):
    monkeypatch.setattr(watch, "_SHARE", 0)  # a file in a folder's place is looked for as often as time allows
    package, base = made()
    service = service_of(package)
    (before,) = answered(service, [asked(PROMPTS[0], "third")])
    assert before.error.code == "unknown-name"
    version = service.held.version
    folder = write_random_adapter(package / "third", base, stage=3).path
    heard = answered(service, [asked(PROMPTS[0], "third"), asked(PROMPTS[0])])
    assert [one.error and one.error.code for one in heard] == [
        "unknown-name",
        None,
    ]  # whole or not at all: no distribution
    assert "third" in service.trouble and service.held.version == version
    give_distribution(folder, base, load_task(str(tasks["third"])).train, data="third", second="full")
    third, routed = answered(service, [asked(PROMPTS[0], "third"), asked(load_task(str(tasks["third"])).train[0])])
    assert third.text and third.verdict.version == routed.verdict.version != version
    assert routed.verdict.adapter == "third" and service.trouble == ""
    shutil.rmtree(folder)
    gone, again = answered(service, [asked(PROMPTS[0], "third"), asked(PROMPTS[0])])
    assert gone.error.code == "unknown-name"
    assert again.verdict.version == version


def test_what_is_damaged_and_gone_is_not_answered_by_what_was_there(made):
    package, _ = made()
    service = service_of(package)
    (before,) = answered(service, [asked(PROMPTS[0], "second")])
    shutil.copytree(package / "first", kept := package.parent / "kept")
    shutil.rmtree(package / "first")
    (package / "second" / "clora.json").rename(hidden := package.parent / "clora.json")
    (package / "second" / "clora.json").write_text("{")
    (heard,) = answered(service, [asked(PROMPTS[0], "second")])
    assert heard.error.code == "served-package-gone" and "clora.json" in str(heard.error)
    hidden.replace(package / "second" / "clora.json")
    kept.rename(package / "first")
    (heard,) = answered(service, [asked(PROMPTS[0], "second")])
    assert (heard.text, heard.verdict.version) == (before.text, before.verdict.version)


def test_files_that_are_written_in_place_are_noticed_and_so_is_their_mend(made, monkeypatch):
    monkeypatch.setattr(watch, "_SHARE", 0)
    package, log = made()[0], []
    service = Service([package], ServeOptions(device="cpu"), log=log.append)
    version, ask = service.held.version, lambda: answered(service, [asked(PROMPTS[0], "second")])[0]
    expected = ask().text
    for name, status in (("clora.json", "stale"), ("adapter_model.safetensors", "down")):
        file = package / "second" / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        heard = ask()  # the other files are as they were: what was served is there, unless its weights are not
        assert (heard.text, heard.error is None) == ((expected, True) if status == "stale" else ("", False))
        assert service.status == log[-1]["status"] == status and "second" in log[-1]["trouble"]
        file.write_bytes(whole)
        assert ask().text == expected
        assert log.pop() == {"event": "package", "status": "ok", "version": version, "adapters": 2}
        log.pop()
    assert log == []


def test_a_package_of_another_base_model_is_not_taken_up_and_the_former_one_put_back_is(made, backbone, tasks):
    package, _ = made()
    service = service_of(package)
    expected = answered(service, [asked(PROMPTS[0])])[0].verdict
    package.rename(package.parent / "aside")
    write_routable(package, backbone("llama", 1), [str(tasks["first"])], second="full")
    (heard,) = answered(service, [asked(PROMPTS[0])])
    assert heard.error.code == "served-package-gone" and "base model" in str(heard.error)
    shutil.rmtree(package)
    (package.parent / "aside").rename(package)
    assert answered(service, [asked(PROMPTS[0])])[0].verdict == expected


def test_what_was_removed_is_gone_even_if_the_rest_can_no_longer_be_chosen_among(made):
    package, _ = made()
    service = service_of(package)
    answered(service, [asked(PROMPTS[0])])
    shutil.rmtree(package / "first")
    (package / "second" / "features.clora").unlink()
    heard = answered(service, [asked(PROMPTS[0], model) for model in ("first", "second", "auto")])
    assert [one.error and one.error.code for one in heard] == ["unknown-name", None, "served-package-unrouted"]


def test_a_package_of_many_answers_as_one_of_few(made, monkeypatch):
    from clora_cli.routing import mixed_adapters

    package, _ = made()
    batch = [(prompt, model) for prompt in PROMPTS for model in ("auto", "first", "second", "base")]
    few = answered(service_of(package), [asked(*one) for one in batch])
    monkeypatch.setattr(mixed_adapters, "_MOST", 0)
    service = service_of(package)
    many = [answered(service, [asked(*one)])[0] for one in batch]
    assert [one.text for one in many] == [one.text for one in few]


def test_without_distributions_names_still_answer(tmp_path, backbone):
    base = backbone("llama")
    write_random_adapter(tmp_path / "adapters" / "first", base, stage=1)
    service = service_of(tmp_path / "adapters")
    named, auto = answered(service, [asked(PROMPTS[0], "first"), asked(PROMPTS[0])])
    assert named.text
    assert auto.error.code == "served-package-unrouted" and "stat-features" in str(auto.error)


def test_names_of_requests_mean_what_they_say_whatever_tasks_are_called():
    names = ("auto", "base", "nano", "news")
    assert read_choice("auto", names, "nano").auto
    assert read_choice("base", names, "nano") == read_choice("nano", names, "nano") == Choice()
    for name in names:
        assert read_choice(f"base:{name}", names, "nano") == Choice(scales={name: 1.0})
    with refused("served-model-malformed", "'auto' stands alone"):
        read_choice(["auto", "news"], names, "nano")


def test_a_role_that_is_no_text_is_no_turn():
    turns = [{"role": [], "content": "a"}, {"role": {"a": 1}, "content": "b"}, {"role": "user", "content": "c"}]
    bodies = [json.dumps({"messages": each}).encode() for each in (turns, turns[2:])]
    first, second = (forwarded(body)[1].example for body in bodies)
    assert (first.prompt, first.messages) == (second.prompt, second.messages)
    with pytest.raises(Refusal, match="messages with texts"):
        forwarded(json.dumps({"messages": turns[:2]}).encode())
