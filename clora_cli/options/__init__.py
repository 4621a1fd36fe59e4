"""The options of each command, declared once (layer L1): no torch, so that ``--help`` stays fast.

Each class is the options of one command. Its fields are made by ``base.options.option``, which holds an option's help,
range, default and place in records; the command line, configuration files, recipes, manifests and the documentation all
read it there.
"""

from __future__ import annotations

from clora_cli.options.eval_options import GENERAL, SCORE, EvalOptions, merges, ways
from clora_cli.options.expand_options import ExpandOptions
from clora_cli.options.export_options import EXPORT_WAYS, LOADERS, ExportOptions
from clora_cli.options.feature_options import SPLITS, FeatureOptions
from clora_cli.options.merge_options import MergeOptions
from clora_cli.options.push_options import PushOptions
from clora_cli.options.route_options import RouteChoices, RouteOptions, RouteSettings
from clora_cli.options.scan_options import ScanOptions
from clora_cli.options.serve_options import ServeOptions
from clora_cli.options.shared_options import DTYPES, QUANTIZE
from clora_cli.options.synthesize_options import SynthesizeOptions
from clora_cli.options.train_options import TrainOptions
from clora_cli.options.trim_options import SIDES, TrimOptions

__all__ = [
    "DTYPES",
    "EXPORT_WAYS",
    "GENERAL",
    "LOADERS",
    "QUANTIZE",
    "SCORE",
    "SIDES",
    "SPLITS",
    "EvalOptions",
    "ExpandOptions",
    "ExportOptions",
    "FeatureOptions",
    "MergeOptions",
    "PushOptions",
    "RouteChoices",
    "RouteOptions",
    "RouteSettings",
    "ScanOptions",
    "ServeOptions",
    "SynthesizeOptions",
    "TrainOptions",
    "TrimOptions",
    "merges",
    "ways",
]
