"""clora from Python: each command as one function, on the same options, with the same results byte for byte.

    from clora_cli import api

    api.train_task(api.TrainOptions(data="mnli", method="n-lora"), progress=print)
    api.merge(["adapters/mnli", "adapters/cb"], api.MergeOptions(strategy="magmax", out="merged"))

A command's options are a frozen dataclass, with the command's defaults and ranges; what says how a call behaves rather than
what it makes, such as ``force`` or ``progress``, is a keyword of the function. Mistakes raise the errors that the command
prints: subclasses of ``CloraError``, each with a stable ``code``. No configuration file and no variable of the environment
sets an option here; ``CLORA_DATA`` still says where data lie.

Where a function takes ``Paths``, one path will do, or several; a ``Listener`` is any function that takes an ``Event``, such as
``print``. What ``__all__`` lists is public and changes only with a note in the changelog; everything else of the package is not.
"""

from __future__ import annotations

from clora_cli.api.calls import Event
from clora_cli.api.judging import eval, report, route
from clora_cli.api.learning import stat_features, synthesize, train_task
from clora_cli.api.moving import pull, push
from clora_cli.api.returns import Cut, Made, MadeRows, Merged, Pulled, Pushed, Reported, Routed, Trained
from clora_cli.api.shaping import expand, export, merge, trim
from clora_cli.api.telling import scan, show, tasks
from clora_cli.api.whole_runs import run
from clora_cli.base.errors import (
    ArtifactError,
    BusyError,
    CloraError,
    DataError,
    InterruptedRunError,
    LimitError,
    MismatchError,
    OptionError,
    ReplacedError,
    UnknownNameError,
)
from clora_cli.options import (
    EvalOptions,
    ExpandOptions,
    ExportOptions,
    FeatureOptions,
    MergeOptions,
    PushOptions,
    RouteSettings,
    ScanOptions,
    SynthesizeOptions,
    TrainOptions,
    TrimOptions,
)

__all__ = [
    "ArtifactError",
    "BusyError",
    "CloraError",
    "Cut",
    "DataError",
    "EvalOptions",
    "Event",
    "ExpandOptions",
    "ExportOptions",
    "FeatureOptions",
    "InterruptedRunError",
    "LimitError",
    "Made",
    "MadeRows",
    "MergeOptions",
    "Merged",
    "MismatchError",
    "OptionError",
    "Pulled",
    "PushOptions",
    "Pushed",
    "ReplacedError",
    "Reported",
    "RouteSettings",
    "Routed",
    "ScanOptions",
    "SynthesizeOptions",
    "TrainOptions",
    "Trained",
    "TrimOptions",
    "UnknownNameError",
    "eval",
    "expand",
    "export",
    "merge",
    "pull",
    "push",
    "report",
    "route",
    "run",
    "scan",
    "show",
    "stat_features",
    "synthesize",
    "tasks",
    "train_task",
    "trim",
]
