"""The data layer: names, files and Hub ids to tasks, and tasks to token ids (layer L1).

``load_task("mnli")`` gives a :class:`Task`; ``encode(task.train[0], tokenizer, kind="causal", max_length=512)`` an
item; ``Collator(tokenizer)`` a batch. Importing this package loads no torch, transformers, datasets or pyarrow.
"""

from clora_cli.data.collate import Collator, pad_id
from clora_cli.data.encode import IGNORED, encode, encode_answer, encode_answers, encode_prompt, uses_chat
from clora_cli.data.load import list_tasks, load_task
from clora_cli.data.recorded import Origin, named_task, origins_of, own_tasks, recorded_columns, scored_tasks
from clora_cli.data.rows import Rows
from clora_cli.data.task import METRICS, Example, Task, TaskInfo, tell_notes
from clora_cli.data.tokens import Tokens

__all__ = [
    "IGNORED",
    "METRICS",
    "Collator",
    "Example",
    "Origin",
    "Rows",
    "Task",
    "TaskInfo",
    "Tokens",
    "encode",
    "encode_answer",
    "encode_answers",
    "encode_prompt",
    "list_tasks",
    "load_task",
    "named_task",
    "origins_of",
    "own_tasks",
    "pad_id",
    "recorded_columns",
    "scored_tasks",
    "tell_notes",
    "uses_chat",
]
