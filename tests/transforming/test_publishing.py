"""A package that was pushed is pulled as it was, or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
import time

import huggingface_hub
import pytest
import yaml
from hub_stub import running
from refusals import refused
from reported import stage_scores
from support import Signals, contents, write_random_adapter

from clora_cli.base.errors import CloraError
from clora_cli.options import PushOptions
from clora_cli.store.package import read_package
from clora_cli.store.scores import write_scores
from clora_cli.transforming.publishing import pull_package, push_package
from clora_cli.transforming.remotes import remote_at

OPTIONS = PushOptions(license="mit", base_name="org/base")


@pytest.fixture
def package(backbone, tmp_path):
    for stage, name in enumerate(("first", "second"), 1):
        write_random_adapter(tmp_path / "adapters" / name, backbone("llama"), stage=stage)
    return tmp_path / "adapters"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub's stub, with a cache of its own."""
    with running() as stub:
        for name, value in {
            "ENDPOINT": stub.url,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        template = stub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield stub


@pytest.fixture(params=["folder", "file", "hub"])
def target(request, tmp_path):
    if request.param == "hub":
        request.getfixturevalue("hub")
        return "hf://me/tasks"
    folder = tmp_path / "shared disk" / "tasks"
    return str(folder) if request.param == "folder" else folder.as_uri()


def push(package, target, options=OPTIONS, **more):
    return push_package(read_package([package]), target, options, **more)


def test_what_was_pushed_is_pulled_byte_for_byte(package, target, tmp_path):
    assert push(package, target)[1]
    assert not push(package, target)[1]
    members, fetched = pull_package(target, tmp_path / "pulled")
    assert ([member.task for member in members], fetched) == (["first", "second"], True)
    there = contents(tmp_path / "pulled")
    assert contents(package).items() <= there.items()
    assert there.keys() - contents(package).keys() == {"README.md"}
    shutil.copytree(tmp_path / "pulled", tmp_path / ".pulled.unfinished")  # as a kill leaves what was replaced
    assert not pull_package(target, tmp_path / "pulled")[1]
    assert not (tmp_path / ".pulled.unfinished").exists()


def test_an_adapter_that_is_gone_is_gone_at_the_other_end(package, target, tmp_path):
    push(package, target)
    pull_package(target, tmp_path / "pulled")
    for file in (package / "second").iterdir():
        file.unlink()
    (package / "second").rmdir()
    push(package, target, force=True)
    with refused("output-differs", tmp_path / "pulled"):
        pull_package(target, tmp_path / "pulled")
    members, _ = pull_package(target, tmp_path / "pulled", force=True)
    assert [member.task for member in members] == ["first"]
    assert not (tmp_path / "pulled" / "second").exists()


def test_the_card_states_licence_base_model_and_results_as_the_hub_reads_them(package, tmp_path):
    write_scores(stage_scores(2, {"first": 5, "second": 9}, "p", "m"), tmp_path / "scores.json")
    options = PushOptions(license="apache-2.0", base_name="org/base", scores=(tmp_path / "scores.json",))
    push(package, str(tmp_path / "out"), options)
    text = (tmp_path / "out" / "README.md").read_text()
    data = huggingface_hub.ModelCard(text).data
    assert (data.license, data.base_model, data.library_name, data.model_name) == (
        "apache-2.0",
        "org/base",
        "peft",
        "out",
    )
    found = {one.dataset_name: (one.metric_type, one.metric_value) for one in data.eval_results}
    assert found == {"first": ("accuracy", 50), "second": ("accuracy", 90)}
    assert yaml.safe_load(text.split("---")[1])["tags"] == ["clora", "continual-learning", "lora"]


def test_a_damaged_file_is_refused_and_nothing_appears(package, tmp_path):
    push(package, str(tmp_path / "out"))
    weights = tmp_path / "out" / "second" / "adapter_model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + b"\x00" if sound[-1:] != b"\x00" else sound[:-1] + b"\x01")
    with refused("remote-damaged", "second/adapter_model.safetensors"):
        pull_package(str(tmp_path / "out"), tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    weights.write_bytes(sound)
    pull_package(str(tmp_path / "out"), tmp_path / "pulled")


def test_an_interrupted_pull_fetches_only_the_rest(package, hub, tmp_path):
    push(package, "hf://me/tasks")
    hub.failing.add("second/adapter_model.safetensors")
    with refused("hub-refused", "hf://me/tasks"):
        pull_package("hf://me/tasks", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    hub.failing.clear()
    hub.fetched.clear()
    pull_package("hf://me/tasks", tmp_path / "pulled")
    assert "second/adapter_model.safetensors" in hub.fetched
    assert not [name for name in hub.fetched if name.startswith("first/")]


def breaks_off(handler):
    """Answer with the half of a file, and close the connection."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.send_header("ETag", '"0"')
    handler.send_header("X-Repo-Commit", handler.server.commit)
    handler.end_headers()
    handler.wfile.write(b"{")
    handler.close_connection = True


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        (lambda one: one.answer({}, 401), "hub-refused", "hf auth login"),
        (lambda one: one.answer({}, 403, X_Error_Code="GatedRepo"), "hub-refused", "gated"),
        (lambda one: one.answer({}, 404, X_Error_Code="RevisionNotFound"), "hub-refused", "revision"),
        (lambda one: one.missing("RepoNotFound"), "remote-missing", "if it is private"),
        (lambda one: one.answer({}, 500), "hub-refused", "try again later"),
        (lambda one: one.answer(b"<html>"), "hub-answer-malformed", "HF_ENDPOINT"),
        (lambda one: one.answer([{"type": "file"}]), "hub-answer-malformed", "HF_ENDPOINT"),
        (lambda one: one.answer({"a": 1}), "hub-answer-malformed", "HF_ENDPOINT"),
        (lambda one: one.answer(b"", 302, Location=one.path), "hub-unreachable", "try again"),
        (breaks_off, "hub-unreachable", "try again"),
    ],
)
def test_what_the_hub_answers_wrongly_is_told_in_one_line(hub, tmp_path, monkeypatch, wrong, error, told):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the library tries again after seconds
    hub.wrong = wrong
    with refused(error, "hf://me/tasks", told):
        pull_package("hf://me/tasks", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_a_file_that_breaks_off_is_fetched_again(package, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    push(package, "hf://me/tasks")
    turns = []

    def wrong(handler):
        turns.append(handler.path)
        hub.wrong = None if len(turns) == 3 else wrong
        breaks_off(handler)

    hub.wrong = wrong
    with contextlib.suppress(CloraError):  # the library's own attempts may do
        pull_package("hf://me/tasks", tmp_path / "pulled")
    assert len(turns) == 3
    pull_package("hf://me/tasks", tmp_path / "pulled")
    assert [member.task for member in read_package([tmp_path / "pulled"])] == ["first", "second"]


def test_the_token_does_not_follow_to_another_machine(package, hub, tmp_path, monkeypatch):
    push(package, "hf://me/tasks")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with running() as other:
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        hub.wrong = lambda handler: handler.answer(b"", 302, Location=elsewhere + handler.path)
        hub.asked.clear()
        with refused("remote-missing"):
            pull_package("hf://me/tasks", tmp_path / "pulled")
        assert [token for _, token in hub.asked] == ["Bearer hf_secret"]
        assert [token for _, token in other.asked] == [""]


def test_what_changes_while_it_is_sent_is_not_sent(package, target, monkeypatch):
    remote = type(remote_at(target))
    look = remote.listing

    def late(self):
        (package / "second" / "adapter_model.safetensors").write_bytes(b"other")
        return look(self)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "listing", late)
        with refused("replaced-while-read", "adapter_model.safetensors", "push again"):
            push(package, target)
    assert remote_at(target).listing() == {}


def test_links_in_what_is_left_of_a_pull_are_not_written_through(package, tmp_path):
    push(package, str(tmp_path / "out"))
    (tmp_path / "mine").write_text("mine")
    for name in ("", "first"):
        left = tmp_path / ".pulled.unfinished" / name
        left.mkdir(parents=True)
        (left / "README.md").symlink_to(tmp_path / "mine")
        pull_package(str(tmp_path / "out"), tmp_path / "pulled", force=True)
        assert (tmp_path / "mine").read_text() == "mine"
        shutil.rmtree(tmp_path / "pulled")


def test_a_repository_without_an_adapter_is_not_fetched(hub, tmp_path):
    hub.repos["org/llm"] = {"config.json": b"{}", "model.safetensors": b"0" * 100}
    with refused("remote-without-adapter", "hf://org/llm"):
        pull_package("hf://org/llm", tmp_path / "pulled")
    assert hub.fetched == []


def test_a_link_to_where_a_pull_goes_stays_and_its_target_is_replaced(package, tmp_path):
    push(package, str(tmp_path / "shared"))
    for target in ("there", "nowhere"):
        (tmp_path / f"to-{target}").symlink_to(target)
    push_package(read_package([package / "first"]), str(tmp_path / "other"), OPTIONS)
    pull_package(str(tmp_path / "other"), tmp_path / "there")
    for target in ("there", "nowhere"):
        pull_package(str(tmp_path / "shared"), tmp_path / f"to-{target}", force=True)
        assert (tmp_path / f"to-{target}").is_symlink()
        assert {"first", "second"} <= {path.name for path in (tmp_path / target).iterdir()}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    (tmp_path / "loop").symlink_to("loop")
    for odd, code in (("loop", "path-loops"), ("n" * 300, "path-too-long")):
        with refused(code, "--out"):
            pull_package(str(tmp_path / "shared"), tmp_path / odd)
        with refused(code, "target"):
            push(package, str(tmp_path / odd))


@pytest.mark.parametrize("left", ["file", "link", "dead link", "folder in a file's place"])
def test_whatever_is_in_the_place_of_an_unfinished_pull_is_put_away(package, tmp_path, left):
    push(package, str(tmp_path / "shared"))
    work, elsewhere = tmp_path / ".pulled.unfinished", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "README.md").write_text("mine\n")
    if left == "file":
        work.write_text("x")
    elif "link" in left:
        work.symlink_to(elsewhere if left == "link" else "nowhere")
    else:
        (work / "README.md" / "x").mkdir(parents=True)
    pull_package(str(tmp_path / "shared"), tmp_path / "pulled")
    assert (elsewhere / "README.md").read_text() == "mine\n"
    assert {path.name for path in tmp_path.iterdir() if path.name not in {package.name, "adapters"}} == {
        "shared",
        "elsewhere",
        "pulled",
    }


def test_what_is_left_of_another_pull_does_not_get_into_a_package(package, tmp_path):
    push(package, str(tmp_path / "out"))
    left = tmp_path / ".pulled.unfinished" / "third" / "adapter_config.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    members, _ = pull_package(str(tmp_path / "out"), tmp_path / "pulled")
    assert [member.task for member in members] == ["first", "second"]
    assert not (tmp_path / "pulled" / "third").exists()


def test_a_repository_of_somebody_else_is_checked_by_the_hubs_own_digests_and_scanned(package, hub, tmp_path):
    folder = package / "first"
    hub.repos["you/lora"] = {
        name: (folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    hub.repos["you/lora"] |= {"training_args.bin": b"\x80\x04", "model.py": b"pass\n", ".gitattributes": b""}

    told = Signals()
    (member,), _ = pull_package("hf://you/lora", tmp_path / "lora", progress=told)
    assert member.task == "lora"
    assert {path.name for path in member.path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "model.py",
    }
    assert any("training_args.bin is left out" in line for line in [*told.notes, *told.warnings])
    assert any("model.py: is a program" in line for line in [*told.notes, *told.warnings])


def test_a_new_repository_is_private_unless_it_is_asked_to_be_public(package, hub):
    push(package, "hf://me/mine")
    push(package, "hf://me/ours", PushOptions(license="mit", base_name="org/base", public=True))
    assert (bool(hub.private["me/mine"]), bool(hub.private["me/ours"])) == (True, False)


def test_names_that_leave_the_folder_are_refused(package, tmp_path):
    push(package, str(tmp_path / "out"))
    path = tmp_path / "out" / "clora-checksums.json"
    content = json.loads(path.read_text())
    for odd in ("../x.safetensors", "/etc/x.safetensors"):
        path.write_text(json.dumps({**content, "files": content["files"] | {odd: "0" * 64}}))
        with refused("remote-damaged"):
            pull_package(str(tmp_path / "out"), tmp_path / "pulled")
    path.write_text(json.dumps({**content, "schema": "clora.checksums/9"}))
    with refused("remote-damaged"):
        pull_package(str(tmp_path / "out"), tmp_path / "pulled")


def test_a_link_out_of_a_shared_folder_brings_nothing_in(package, tmp_path):
    push(package, str(tmp_path / "out"))
    (tmp_path / "secret").write_text("mine alone", encoding="utf-8")
    for listed in (True, False):
        notes = tmp_path / "out" / "second" / "notes.txt"
        if not listed:
            (tmp_path / "out" / "clora-checksums.json").unlink()
            notes.symlink_to(tmp_path / "secret")
        else:
            weights = tmp_path / "out" / "second" / "adapter_model.safetensors"
            weights.rename(tmp_path / "elsewhere")
            weights.symlink_to(tmp_path / "elsewhere")
        with refused("remote-damaged", "leads out of the folder"):
            pull_package(str(tmp_path / "out"), tmp_path / "pulled")
        assert not (tmp_path / "pulled").exists()
        if listed:
            weights.unlink()
            (tmp_path / "elsewhere").rename(weights)


def test_what_cannot_be_stated_or_found_is_refused(package, hub, tmp_path):
    with refused("base-model-not-public", "--base-name"):
        push(package, str(tmp_path / "out"), PushOptions(license="mit"))
    with refused("option-malformed", "--license"):
        PushOptions(license="My Own!")
    for odd in ("https://example.com/x", "hf://only-a-name"):
        with refused("remote-malformed", odd):
            push(package, odd)
    for nothing in (str(tmp_path / "nothing"), "hf://me/nothing"):
        with refused("remote-missing", nothing):
            pull_package(nothing, tmp_path / "pulled")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine\n")
    with refused("output-differs", tmp_path / "else"):
        push(package, str(tmp_path / "else"))
    with refused("remote-without-adapter", tmp_path / "else"):
        pull_package(str(tmp_path / "else"), tmp_path / "pulled")


def test_nothing_but_a_package_is_replaced_whatever_is_forced(package, tmp_path):
    push(package, str(tmp_path / "there"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "one.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    for place in (tmp_path / "thesis", tmp_path / "file"):
        with refused("output-not-a-package", place):
            push(package, str(place), force=True)
        with refused("output-not-a-package", place):
            pull_package(str(tmp_path / "there"), place, force=True)
    with refused("output-not-a-package", tmp_path / "file"):
        push(package, str(tmp_path / "file"))
    for place in (package, package / "first" / "inner", tmp_path):
        with refused("output-would-change-input", place):
            push(package, str(place), force=True)
    with refused("output-would-change-input", tmp_path / "there" / "inner"):
        pull_package(str(tmp_path / "there"), tmp_path / "there" / "inner")
    for nowhere in ("", "file:", "file://", "/"):
        with refused("remote-malformed"):
            pull_package(nowhere, tmp_path / "new")
    assert contents(tmp_path) == before


def test_a_file_whose_name_not_every_disk_holds_is_named(package, tmp_path):
    (package / "first" / "what?.txt").write_text("x")
    with refused("name-unfit-for-folder", "what?.txt"):
        push(package, str(tmp_path / "there"))
    assert not (tmp_path / "there").exists()
