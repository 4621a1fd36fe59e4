"""clora beside what people use, in one run: a Trainer with a PEFT model, and lm-evaluation-harness's ``hf`` model with ``peft=``.

- ``train``: rows a second and peak memory of a training, the first step left out;
- ``rank``: CPU seconds a row for the likeliest of a task's labels;
- ``answer``: CPU seconds a row for a greedy answer.

All read the same rows under the same prompts, and rank and answer with the adapter that ``clora train-task`` has just trained.
``--length-window`` is clora's alone: its batches then hold rows of like length, and the first losses are of other rows.
Every measurement is a process of its own with one thread, in turns. lm-evaluation-harness is found on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clora_cli.data import Task, load_task

MAX_LENGTH, RANK = 512, 8
Measured = dict[str, Any]


def clock(marks: list[float], losses: list[float]) -> Any:
    """Return a callback that keeps the processor's time at the end of every step, and the loss."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.process_time())

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    return Clock()


def plan_of(options: Measured, length_window: int = 1) -> Any:
    """Return clora's plan, which fixes the rows and their order."""
    from clora_cli.options import TrainOptions
    from clora_cli.training import make_plan

    chosen = {"rank": RANK, "batch_size": options["batch"], "max_steps": options["steps"], "max_length": MAX_LENGTH}
    chosen["length_window"] = length_window
    return make_plan(
        TrainOptions(
            model=options["model"],
            data=options["task"],
            package=Path(options["package"]),
            save_steps=10**6,
            lr=1e-3,
            device="cpu",
            **chosen,
        )
    )


def trained(marks: Sequence[float], losses: Sequence[float], options: Measured) -> Measured:
    """Return rows a second after the first step, the process's peak memory in MiB, and the first loss."""
    seconds = marks[-1] - marks[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"value": options["batch"] * (len(marks) - 1) / seconds, "peak": peak, "said": [round(losses[0], 3)]}


def train_by_clora(options: Measured) -> Measured:
    """Train as ``clora train-task`` does."""
    from transformers import trainer

    from clora_cli.training import train_task

    marks: list[float] = []
    losses: list[float] = []
    trainer.DEFAULT_CALLBACKS.append(clock(marks, losses))
    train_task(plan_of(options, options["window"]))
    return trained(marks, losses, options)


def train_by_peft(options: Measured) -> Measured:
    """Train the same rows in the same order, with the model's own loss."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    from clora_cli.data import Collator, encode
    from clora_cli.training.loop import Rows

    plan = plan_of(options)
    tokenizer = AutoTokenizer.from_pretrained(options["model"])
    items = [encode(row, tokenizer, kind="causal", max_length=MAX_LENGTH) for row in plan.drawn.examples]
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(options["model"], dtype="float32"),
        LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    arguments = TrainingArguments(
        output_dir=options["package"],
        per_device_train_batch_size=options["batch"],
        max_steps=options["steps"],
        learning_rate=plan.options.lr,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    marks: list[float] = []
    losses: list[float] = []
    dataset = Rows(items, plan.order)
    Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=Collator(tokenizer),
        callbacks=[clock(marks, losses)],
    ).train()
    return trained(marks, losses, options)


def asked(options: Measured) -> tuple[Task, list[Any]]:
    """Return the task, and the rows to answer."""
    task = load_task(options["task"])
    return task, list(task.test[: options["rows"]])


def evaluate_by_clora(options: Measured) -> Measured:
    """Rank or answer as ``clora eval`` does, prompts and labels tokenised."""
    import torch

    from clora_cli.evaluation.answers import generate, rank_labels
    from clora_cli.evaluation.prompts import Prompts
    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.bank import AdapterBank
    from clora_cli.model.base_model import find_model
    from clora_cli.store.adapter_folder import read_adapter

    backbone = load_backbone(find_model(options["model"]), device=torch.device("cpu"))
    bank = AdapterBank(backbone.model)
    bank.activate([read_adapter(Path(options["adapter"])).on(bank.places).deltas()])
    task, rows = asked(options)
    began = time.process_time()
    prompts = Prompts.encode(backbone, task, rows, MAX_LENGTH, options["batch"])
    if options["what"] == "rank":
        said = rank_labels(prompts, task.labels, lambda rows: None)
    else:
        said = generate(prompts, prompts.room, lambda rows: None)
    return {"value": (time.process_time() - began) / len(rows), "said": said}


def evaluate_by_harness(options: Measured) -> Measured:
    """Let lm-evaluation-harness read the rows through a task of its own, and time its model alone."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder, ranks = Path(options["package"]), options["what"] == "rank"
    task, rows = asked(options)
    write_harness_task(folder, task, rows, options)
    model = HFLM(
        pretrained=options["model"],
        peft=options["adapter"],
        device="cpu",
        dtype="float32",
        batch_size=options["batch"],
        max_length=2048,
    )
    took: list[float] = []
    name = "loglikelihood" if ranks else "generate_until"
    plain = getattr(model, name)

    def timed(*given: Any, **named: Any) -> Any:
        began = time.process_time()
        found = plain(*given, **named)
        took.append(time.process_time() - began)
        return found

    setattr(model, name, timed)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(model=model, tasks=["beside"], task_manager=manager, bootstrap_iters=0)
    samples = sorted((found or {})["samples"]["beside"], key=lambda sample: sample["doc_id"])
    if ranks:
        values = [[one[0][0] for one in sample["resps"]] for sample in samples]
        said = [task.labels[max(range(len(row)), key=row.__getitem__)] for row in values]
    else:
        said = [sample["resps"][0][0].strip() for sample in samples]
    return {"value": sum(took) / len(rows), "said": said}


def write_harness_task(folder: Path, task: Task, rows: Sequence[Any], options: Measured) -> None:
    """Write rows and the task that reads them; a label is followed by the end of sequence, as clora compares labels."""
    from transformers import AutoTokenizer

    from clora_cli.data import encode_answers, encode_prompt

    tokenizer = AutoTokenizer.from_pretrained(options["model"])
    answers = encode_answers(rows[0], task.labels, tokenizer, kind="causal")
    end = tokenizer.decode([answers[0][-1]])
    prompts = [
        tokenizer.decode(
            encode_prompt(row, tokenizer, kind="causal", max_length=MAX_LENGTH), clean_up_tokenization_spaces=False
        )
        for row in rows
    ]
    lines = [
        {"prompt": prompt, "choices": [label + end for label in task.labels], "gold": row.references[0]}
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    choice = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": 0}
    room = 1 + max(map(len, answers))
    stop = {"until": [end], "max_gen_toks": room, "do_sample": False}
    answer = {"output_type": "generate_until", "doc_to_target": "gold", "generation_kwargs": stop}
    kind = choice if options["what"] == "rank" else answer
    metric = "acc" if options["what"] == "rank" else "exact_match"
    shown = {
        "task": "beside",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "prompt",
        "target_delimiter": " ",
        "metric_list": [{"metric": metric}],
        **kind,
    }
    (folder / "beside.yaml").write_text(json.dumps(shown), encoding="utf-8")  # JSON is YAML


WORK = {
    ("train", "clora"): train_by_clora,
    ("train", "other"): train_by_peft,
    ("rank", "clora"): evaluate_by_clora,
    ("rank", "other"): evaluate_by_harness,
    ("answer", "clora"): evaluate_by_clora,
    ("answer", "other"): evaluate_by_harness,
}


def measured(options: Measured) -> Measured:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        given = {"package": place, **options}
        threads = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": place}
        command = [sys.executable, __file__, "--work", json.dumps(given)]
        ended = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{options['what']} {options['by']} failed:\n{ended.stderr[-3000:]}")
    found: Measured = json.loads(ended.stdout.splitlines()[-1])
    return found


def compared(what: str, task: str, options: Measured) -> str:
    """Return a row of the table."""
    ours, theirs = (measured({**options, "what": what, "task": task, "by": by}) for by in ("clora", "other"))
    same = sum(one == other for one, other in zip(ours["said"], theirs["said"], strict=True))
    if what == "train":
        more = f"{ours['value'] / theirs['value']:.2f} | {ours['peak'] / theirs['peak']:.2f} |"
    else:
        more = f"{theirs['value'] / ours['value']:.2f} | |"
    return f"| {what} | {task} | {ours['value']:.3f} | {theirs['value']:.3f} | {more} {same} of {len(ours['said'])} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a causal model's folder")
    parser.add_argument("--tasks", nargs="+", default=["dbpedia", "amazon", "yahoo", "agnews"])
    parser.add_argument("--only", nargs="+", choices=["train", "rank", "answer"], default=["train", "rank", "answer"])
    parser.add_argument("--rows", type=int, default=24, help="test rows a task")
    parser.add_argument("--steps", type=int, default=5, help="training steps, of which the first is not counted")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length-window", type=int, default=1, help="batches whose rows clora puts together by length")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        options = json.loads(chosen.work)
        print("\n" + json.dumps(WORK[options["what"], options["by"]](options)))
        return
    with tempfile.TemporaryDirectory() as place:
        options = {"model": chosen.model, "batch": chosen.batch_size, "rows": chosen.rows, "steps": chosen.steps}
        options["window"] = chosen.length_window
        measured({**options, "what": "train", "by": "clora", "task": chosen.tasks[0], "package": place})
        adapter = next(Path(place).rglob("adapter_config.json")).parent
        print("| | task | clora | other | times | peak | same |", "|---|---|--:|--:|--:|--:|---|", sep="\n")
        for what in chosen.only:
            for task in chosen.tasks:
                print(compared(what, task, {**options, "adapter": str(adapter)}), flush=True)


if __name__ == "__main__":
    main()
