"""Turn a plan into arguments of Transformers' Trainer (layer L3)."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from clora_cli.base.errors import OptionError
from clora_cli.model.backbone import Backbone
from clora_cli.processes.meeting import wait_for_all
from clora_cli.training.plan import Plan

__all__ = ["training_arguments"]

_CHECKPOINTS_A_RUN = 10


def training_arguments(plan: Plan, backbone: Backbone) -> TrainingArguments:
    """Return the Trainer's arguments for one process of a run.

    Raises:
        OptionError: If the tracker is not installed, or the batch does not divide among the processes.
    """
    options = plan.options
    trackers = {"none", *get_available_reporting_integrations()}
    if options.report_to not in trackers:
        raise OptionError(
            f"--report-to {options.report_to} is not installed here; choose one of {', '.join(sorted(trackers))}",
            code="tracker-not-installed",
        )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if options.batch_size % processes:
        raise OptionError(
            f"--batch-size {options.batch_size} does not divide among {processes} processes; give a multiple",
            code="batch-size-not-divisible",
        )
    on_cpu = backbone.device.type == "cpu"
    # --dtype decides, not the launcher's configuration.
    half = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    os.environ["ACCELERATE_MIXED_PRECISION"] = half.get(backbone.dtype, "no")
    wait_for_all()  # the Trainer's own group would wait for a process that has failed
    arguments = TrainingArguments(
        output_dir=str(plan.work),
        per_device_train_batch_size=options.batch_size // processes,
        gradient_accumulation_steps=options.grad_accum,
        max_steps=plan.steps,
        learning_rate=options.lr,
        lr_scheduler_type=options.schedule,
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        optim="adamw_torch",
        train_sampling_strategy="sequential",
        bf16=backbone.dtype == torch.bfloat16,
        fp16=backbone.dtype == torch.float16,
        **_checkpointing(options.gradient_checkpointing),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=options.save_steps or max(1, plan.steps // _CHECKPOINTS_A_RUN),
        save_total_limit=2,
        # The Trainer refuses its own checkpoints of a divided model; those of ResumableTrainer hold what is trained, which is whole.
        save_only_model=backbone.sharded,
        seed=plan.seed,
        data_seed=plan.seed,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=options.report_to,
        run_name=plan.task.name,
        disable_tqdm=True,
        log_level="error",
    )
    # Seeing several devices, the Trainer gives one process DataParallel with a batch on each; --nproc is how to ask for them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _checkpointing(wanted: bool) -> dict[str, Any]:
    # Transformers renamed the option in 5.21, which does not support Python 3.10.
    name = (
        "activation_checkpointing"
        if hasattr(TrainingArguments, "activation_checkpointing")
        else "gradient_checkpointing"
    )
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}} if wanted else {}
