"""Systems, histories, tools, weights, verdicts and choices: kept in the prompt, learned only where they are answers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from clora_cli.data import Example, Rows, Task, encode, encode_prompt, load_task
from clora_cli.data.streams import row_file
from clora_cli.data.templates import each_answer
from clora_cli.data.tools import renderable

TOOL_TEMPLATE = (
    "{% if tools %}<|tools|>{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.tool_calls %}CALL {{ m.tool_calls[0].function.name }} {{ m.tool_calls[0].function.arguments.city }}"
    "{% else %}{{ m.content }}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DEFINED = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


def ask(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def tell(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def read(folder: Path, row: dict[str, Any], columns: dict[str, str] | None = None) -> Task:
    text = "".join(json.dumps(row).replace("%", str(i)) + "\n" for i in range(20))
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return load_task("rows.jsonl", columns=columns)


def first(task: Task) -> Example:
    return min((*task.train, *task.dev, *task.test), key=lambda example: example.prompt)


def told(task: Task) -> list[str]:
    return [note for note in task.notes if "carved" not in note]


@pytest.mark.parametrize("history", [
    [["My name is Bob", "Hello Bob"]],
    [ask("My name is Bob"), tell("Hello Bob")],
])  # fmt: skip
def test_system_and_history_of_an_instruction_are_the_turns_before_it(folder: Path, history: list[Any]) -> None:
    row = {
        "instruction": "Who am I, %?",
        "input": "Be brief.",
        "output": "Bob",
        "system": "Pirate.",
        "history": history,
    }
    task = read(folder, row)
    assert first(task).turns == (
        ("system", "Pirate."), ("user", "My name is Bob"), ("assistant", "Hello Bob"), ("user", "Who am I, 0?\nBe brief.")
    )  # fmt: skip
    assert first(task).references == ("Bob",) and task.template == "chat"


def test_columns_of_a_conversation_that_are_empty_everywhere_change_nothing(folder: Path) -> None:
    row = {"instruction": "Who, %?", "input": "", "output": "Bob"}
    plain = read(folder, row)
    assert read(folder, row | {"system": "", "history": []}).fingerprint == plain.fingerprint
    assert plain.template == "alpaca"


@pytest.mark.parametrize(("row", "prompt"), [
    ({"prompt": "q %", "completion": "a", "system": "s"}, "s\n\nUser: q 0\nAssistant:"),
    ({"question": "q %", "answer": "a", "system": "s"}, "s\n\nUser: q 0\nAssistant:"),
    ({"prompt": [ask("q %")], "completion": [tell("a")], "system": "s"}, "s\n\nUser: q 0\nAssistant:"),
])  # fmt: skip
def test_a_systems_text_stands_before_every_kind_of_prompt(folder: Path, row: dict[str, Any], prompt: str) -> None:
    assert first(read(folder, row)).prompt == prompt


def test_a_history_that_is_none_is_one_line(folder: Path) -> None:
    with refused("history-malformed", "line 1", "'history'", "[question, answer]"):
        read(folder, {"instruction": "q %", "output": "a", "history": ["x", "y"]})


@pytest.mark.parametrize(("row", "prompt", "answers"), [
    ({"sentence1": "x %", "sentence2": "y", "label": 1}, "sentence1: x 0\nsentence2: y\nAnswer:", ("1",)),
    ({"premise": "x %", "hypothesis": "y", "label": "e"}, "premise: x 0\nhypothesis: y\nAnswer:", ("e",)),
    ({"question1": "x %", "question2": "y", "label": "e"}, "question1: x 0\nquestion2: y\nAnswer:", ("e",)),
    ({"question": "x %", "sentence": "y", "label": "e"}, "question: x 0\nsentence: y\nAnswer:", ("e",)),
    ({"question": "x %", "answer": " y "}, "x 0\nAnswer:", ("y",)),
    ({"question": "x %", "context": "c", "answers": {"text": ["y", "z"], "answer_start": [1, 2]}}, "c\nx 0\nAnswer:",
     ("y", "z")),
    ({"passage": "c", "question": "x %", "answer": True}, "c\nx 0\nAnswer:", ("True",)),
])  # fmt: skip
def test_pairs_and_questions(folder: Path, row: dict[str, Any], prompt: str, answers: tuple[str, ...]) -> None:
    task = read(folder, row)
    assert (first(task).prompt, first(task).references, told(task)) == (prompt, answers, [])


def test_a_pair_of_one_text_is_dropped(folder: Path) -> None:
    rows = [{"premise": f"x {i}", "hypothesis": "y" if i % 2 else None, "label": "a"} for i in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert (
        "dropped 10 of 20 train rows: empty prompt or answer (null counted as empty)" in load_task("rows.jsonl").notes
    )


@pytest.mark.parametrize("row", [
    {"prompt": "q %", "chosen": "good", "rejected": "bad"},
    {"question": "q %", "chosen": "good", "rejected": "bad"},
    {"instruction": "q %", "chosen": "good", "rejected": "bad"},
    {"prompt": [ask("q %")], "chosen": [tell("good")], "rejected": [tell("bad")]},
    {"chosen": [ask("q %"), tell("good")], "rejected": [ask("q %"), tell("bad")]},
    {"prompt": "q %", "chosen": [ask("q %"), tell("good")], "rejected": [ask("q %"), tell("bad")]},
    {"conversations": [{"from": "human", "value": "q %"}], "chosen": {"from": "gpt", "value": "good"},
     "rejected": {"from": "gpt", "value": "bad"}},
])  # fmt: skip
def test_the_chosen_answer_is_learned_and_the_rejected_one_named(folder: Path, row: dict[str, Any]) -> None:
    task = read(folder, row)
    assert first(task).references == ("good",) and "q 0" in first(task).prompt and "bad" not in first(task).prompt
    assert told(task) == ["20 of 20 train rows: rejected answers are not learned"]


@pytest.mark.parametrize("column", ["label", "kto_tag"])
def test_answers_that_are_marked_as_bad_are_not_learned(folder: Path, column: str) -> None:
    rows = [{"prompt": f"q {i}", "completion": "a", column: i % 2 == 0} for i in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = load_task("rows.jsonl")
    assert len(task.train) + len(task.dev) + len(task.test) == 10
    assert f"10 of 20 train rows: answers that '{column}' calls bad are not learned" in task.notes


def test_a_label_that_is_no_verdict_is_a_column_not_used(folder: Path) -> None:
    assert told(read(folder, {"prompt": "q %", "completion": "a", "label": 0})) == ["columns not used: label (20 rows)"]


def test_zeros_and_ones_beside_answers_are_verdicts(folder: Path) -> None:
    rows = [{"paragraph": "p", "question": f"q {i}", "answer": f"a {i}", "label": i % 2} for i in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = load_task("rows.jsonl")
    assert all(int(row.references[0][2:]) % 2 for row in (*task.train, *task.dev, *task.test))
    assert (
        first(task).body == "p\nq 1"
        and "10 of 20 train rows: answers that 'label' calls bad are not learned" in task.notes
    )


def test_turns_and_lists_that_are_written_as_text_are_read(folder: Path) -> None:
    chat, answer = [ask("q %")], [tell("a")]
    for spelled in (json.dumps, str):
        for row in (
            {"prompt": spelled(chat), "completion": spelled(answer)},
            {"prompt": "q %", "completion": answer},
            {"prompt": spelled(chat), "chosen": spelled(answer), "rejected": spelled([tell("b")])},
            {"messages": spelled([*chat, *answer])},
        ):
            task = read(folder, row)
            assert first(task).turns == (("user", "q 0"),) and first(task).references == ("a",)
        earlier = read(folder, {"instruction": "q %", "output": "a", "history": spelled([["x", "y"]])})
        assert first(earlier).turns == (("user", "x"), ("assistant", "y"), ("user", "q 0"))
        assert first(read(folder, {"question": "q %", "answers": spelled(["a", "b"])})).references == ("a", "b")
        several = read(folder, {"question": "q %", "answers": spelled({"text": ["a"], "answer_start": [0]})})
        assert first(several).references == ("a",)
    for other in ([{"role": "admin", "content": "x"}], [{"from": "a", "to": "b"}], [{"role": "user", "name": "x"}]):
        text = json.dumps(other)
        asked = first(read(folder, {"prompt": f"{text} %", "completion": text}))
        assert asked.references == (text,) and asked.turns == ()
    assert first(read(folder, {"question": "q %", "answer": '["a", "b"]'})).references == ('["a", "b"]',)


def test_turns_of_weight_0_are_read_and_not_learned(folder: Path) -> None:
    task = read(folder, {"messages": [ask("q %"), tell("bad", weight=0), ask("again"), tell("good", weight=1)]})
    assert first(task).references == ("good",) and [e.references for e in each_answer(first(task))] == [("good",)]
    assert "20 of 20 train rows: answers of weight 0 are read, not learned" in task.notes
    last = read(folder, {"messages": [ask("q %"), tell("good"), ask("again"), tell("bad", weight=0)]})
    assert first(last).references == ("good",) and first(last).turns == (("user", "q 0"),)
    with refused("no-row-complete", "weight 0"):
        read(folder, {"messages": [ask("q %"), tell("bad", weight=0)]})
    with refused("turn-weight-not-supported", "'messages'", "weight 0.5"):
        read(folder, {"messages": [ask("q %"), tell("bad", weight=0.5)]})


def test_what_turns_hold_beside_their_words_is_named(folder: Path) -> None:
    task = read(folder, {"messages": [ask("q %"), tell("a", reasoning_content="hm"), ask("more")]})
    assert told(task) == [
        "20 of 20 train rows: what turns of 'messages' hold beside role and content is not used (reasoning_content)",
        "20 of 20 train rows: turns after the last answer that can be learned are left out",
    ]


def test_all_answers_of_a_conversation_are_rows_of_their_own(folder: Path, llama: Any) -> None:
    turns = [
        {"role": "system", "content": "s"},
        ask("one %"),
        tell("a"),
        ask("two"),
        tell("b"),
        ask("three"),
        tell("c"),
    ]
    task = read(folder, {"messages": turns})
    assert [(e.turns[-1][1], e.references[0]) for e in each_answer(first(task))] == [
        ("one 0", "a"), ("two", "b"), ("three", "c")
    ]  # fmt: skip
    assert all(e.turns[0] == ("system", "s") for e in each_answer(first(task)))
    last, every = (Rows.draw(task, "train", 4, 1, learn) for learn in ("last", "all"))
    assert len(last.examples) == 4 and every.examples[2::3] == last.examples and len(every.examples) == 12
    items = [encode(e, llama, kind="causal", max_length=200, chat=True) for e in each_answer(first(task))]
    learned = [llama.decode([token for token in item["labels"] if token >= 0]) for item in items]
    assert [text.removesuffix("</s>").strip() for text in learned] == ["a", "b", "c"]
    assert "20 of 20 train rows: earlier answers stand in the prompt; --learn all learns them too" in task.notes


def test_calls_of_tools_are_never_answers(folder: Path) -> None:
    turns = [ask("weather %?"), {"role": "assistant", "content": None, "tool_calls": [CALL]},
             {"role": "tool", "content": "sun", "tool_call_id": "1"}, tell("It is sunny")]  # fmt: skip
    task = read(folder, {"messages": turns, "tools": DEFINED})
    assert first(task).references == ("It is sunny",) and len(each_answer(first(task))) == 1
    assert told(task) == ["20 of 20 train rows: calls of tools are read, not learned (weather)"]
    assert first(
        read(folder, {"messages": [ask("q %"), tell("ok"), ask("w?"), tell("", tool_calls=[CALL])]})
    ).references == ("ok",)
    with refused("no-row-complete", "(weather)"):
        read(folder, {"messages": turns[:2]})


@pytest.mark.parametrize("row", [
    {"messages": [ask("weather %?"), tell("", tool_calls=[CALL]), {"role": "tool", "content": "sun"}, tell("ok")],
     "tools": DEFINED},
    {"messages": [ask("weather %?"), tell("", function_call=CALL["function"]), {"role": "function", "content": "sun"},
                  tell("ok")], "functions": json.dumps(DEFINED)},
    {"conversations": [{"from": "human", "value": "weather %?"},
                       {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
                       {"from": "observation", "value": "sun"}, {"from": "gpt", "value": "ok"}],
     "tools": json.dumps(DEFINED)},
])  # fmt: skip
def test_tools_are_written_by_the_chat_template(folder: Path, llama: Any, row: dict[str, Any]) -> None:
    before, llama.chat_template = llama.chat_template, TOOL_TEMPLATE
    try:
        example = first(read(folder, row))
        assert renderable([example], llama) == ([example], "")
        text = llama.decode(encode_prompt(example, llama, kind="causal", max_length=400, chat=True))
    finally:
        llama.chat_template = before
    assert "CALL weather Oslo</s><|tool|>sun</s><|assistant|>" in text and '"name": "weather"' in text


def test_rows_with_tools_are_left_out_where_the_template_cannot_write_them(folder: Path, llama: Any) -> None:
    plain = Example("", "q", "", ("a",))
    example = first(read(folder, {"messages": [ask("q %"), tell("", tool_calls=[CALL]), ask("w"), tell("ok")]}))
    kept, note = renderable([example, plain], llama)
    assert kept == [plain] and note.startswith("left out 1 of 2 rows: they use tools (weather), which the base model's")
    with refused("chat-template-without-tools"):
        encode_prompt(example, llama, kind="causal", max_length=400, chat=True)
    with refused("chat-template-without-tools"):
        encode_prompt(example, llama, kind="causal", max_length=400)


def test_a_call_without_a_name_is_one_line(folder: Path) -> None:
    with refused("tool-call-without-name", "line 1", "'messages'"):
        read(folder, {"messages": [ask("q %"), tell("", tool_calls=[{"function": {}}]), tell("a")]})


REGISTRY = {
    "mine": {"file_name": "mine.json", "columns": {"prompt": "asked", "response": "said", "system": "sys"}},
    "odd": {"file_name": "odd.json", "formatting": "sharegpt", "columns": {"messages": "dialog"},
            "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "A", "assistant_tag": "B"}},
    "ranked": {"file_name": "ranked.json", "ranking": True, "columns": {"prompt": "instruction", "chosen": "yes",
                                                                       "rejected": "no"}},
    "kto": {"file_name": "kto.json", "columns": {"kto_tag": "liked"}},
    "far": {"hf_hub_url": "owner/name"},
}  # fmt: skip


@pytest.fixture
def registry(folder: Path) -> Path:
    rows = {
        "mine": {"asked": "q %", "said": "a", "sys": "be brief"},
        "odd": {"dialog": [{"who": "A", "says": "q %"}, {"who": "B", "says": "a"}]},
        "ranked": {"instruction": "q %", "yes": "a", "no": "b"},
        "kto": {"instruction": "q %", "input": "", "output": "a", "liked": True},
    }
    (folder / "lf").mkdir()
    for name, row in rows.items():
        text = json.dumps([json.loads(json.dumps(row).replace("%", str(i))) for i in range(20)])
        (folder / "lf" / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / "lf" / "dataset_info.json").write_text(json.dumps(REGISTRY), encoding="utf-8")
    return folder / "lf"


@pytest.mark.parametrize(("name", "prompt"), [
    ("lf/mine", "be brief\n\nUser: q 0\nAssistant:"), ("lf/mine.json", "be brief\n\nUser: q 0\nAssistant:"),
    ("lf/odd", "User: q 0\nAssistant:"), ("lf/ranked", "q 0\nResponse:"), ("lf/kto", "q 0\nResponse:"),
])  # fmt: skip
def test_data_sets_are_read_as_llama_factorys_registry_describes_them(registry: Path, name: str, prompt: str) -> None:
    task = load_task(name)
    assert task.name == Path(name).stem and first(task).prompt == prompt and first(task).references == ("a",)
    assert "columns are read as dataset_info.json names them" in task.notes
    assert row_file(name) is None  # its rows are not read without their columns


def test_conversations_that_a_template_refuses_are_left_out_and_told(folder: Path, llama: Any) -> None:
    tokenizer = copy.deepcopy(llama)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no systems') }}{% endif %}" + TOOL_TEMPLATE
    )
    plain, system = [ask("q %"), tell("a")], [{"role": "system", "content": "s"}, ask("q %"), tell("a")]
    task = read(folder, {"messages": system})
    kept, note = renderable(task.train, tokenizer)
    assert kept == [] and note.startswith(f"left out {len(task.train)} of {len(task.train)} rows: the tokenizer's chat")
    assert "refuses turns of system, user: no systems; put a system's text into the first question" in note
    assert renderable(task.train, llama) == ([*task.train], "")
    mixed = [*task.train[:3], *read(folder, {"messages": plain}).train]
    kept, note = renderable(mixed, tokenizer)
    assert len(kept) == len(mixed) - 3 and note.startswith(f"left out 3 of {len(mixed)} rows")


def test_a_registry_of_several_data_sets_asks_which(registry: Path) -> None:
    with refused("several-data-sets", "dataset_info.json", "5", "lf/far, lf/kto, lf/mine"):
        load_task("lf")
    with refused("registry-rows-missing", "'far'"):
        load_task("lf/far")
    one = {"mine": REGISTRY["mine"]}
    (registry / "dataset_info.json").write_text(json.dumps(one), encoding="utf-8")
    assert load_task("lf").name == "mine"


def test_what_a_registry_says_that_is_not_so_is_refused_or_told(registry: Path) -> None:
    entries = {
        "gone": {"file_name": "gone.json"},
        "lost": {"file_name": "mine.json", "columns": {"prompt": "nowhere", "response": "said"}},
        "part": {**REGISTRY["mine"], "split": "validation"},
    }
    (registry / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")
    with refused("registry-rows-missing", "'gone'", "file_name gone.json"):
        load_task("lf/gone")
    with refused("column-missing", "'lost'", "'nowhere'", "asked, said, sys"):
        load_task("lf/lost")
    assert "dataset_info.json names what is not read: split validation" in load_task("lf/part").notes
