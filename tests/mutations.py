"""Hostile files: every kind of artifact, changed at random, and read by what would read it.

``tests/test_hostile_files.py`` tries some hundreds in each run of the suite, ``benchmarks/attack_files.py`` any number.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts import write_parts
from reported import write_routes, write_run
from routed import write_routable

from clora_cli.base.errors import CloraError
from clora_cli.base.files import differences, read_json, sha256
from clora_cli.base.legible import is_legible
from clora_cli.store.adapter_folder import DENSE, WEIGHTS, AdapterFolder, read_adapter
from clora_cli.store.manifest import MANIFEST
from clora_cli.store.package import read_package
from clora_cli.store.side_files import FEATURES, STATE

PATIENCE = 2.0  # seconds of the processor's time that reading may take, however busy the machine is
_GIVEN_UP = 60  # seconds by the clock after which it is broken off: it waits for something
CONFIG = "adapter_config.json"
DEEP = 5000
# Values as they stand in a file; JSON's own writer would not write all of them.
RAW = [
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "1e308",
    "-1e308",
    "1e999",
    "NaN",
    "Infinity",
    "-Infinity",
    "1" + "0" * 400,
    "-" + "9" * 30,
    "9223372036854775807",
    "18446744073709551616",
    '""',
    '"\\u001b[2J\\u001b]0;owned\\u0007"',
    '"\\u202egnp.exe"',
    '"\\ud800"',
    '"a\\nb"',
    '"\\u0000"',
    '"' + "x" * 20000 + '"',
    '"../../../../etc/passwd"',
    '"(.+)+#"',
    "[]",
    "{}",
    "[[[[[[]]]]]]",
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
    "[" + "0," * 5000 + "0]",
    '{"a": 1, "a": 2}',
]
YAML = [
    "!!timestamp x",
    "2020-01-01",
    "!!python/object/apply:os.system [id]",
    "!!binary aGk=",
    "!!set {a, b}",
    "&x [*x]",
    "*nowhere",
    ".inf",
    ".nan",
    "1" + "0" * 400,
    "1:1" * 300,
    "[" * 2000 + "]" * 2000,
    "{a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}}}}}}",
    '"\\e[2J"',
    "|\n  a\n  b",
    "~",
    "[]",
    "{}",
    "'" + "x" * 20000 + "'",
    "a: b",
]
BOMB = (
    "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{n}: &{n} [{','.join([f'*{m}'] * 10)}]\n" for m, n in zip("abcdef", "bcdefg", strict=True))
    + "name: *g\n"
)
RECIPE = """\
name: small
about: two methods on two tasks
model: clora-nano
tasks: [yes-no, topics-news]
methods:
  - method: n-lora
    option: {strength: 0.4}
    train: {lr: 0.01}
  - {method: seq-lora, label: plain}
train: {max-steps: 2, batch-size: 4}
eval: {test-rows: 4, combine: sum}
seeds: [1, 2]
out: runs/small
"""


@dataclass(frozen=True)
class Kind:
    """One kind of artifact.

    Attributes:
        name: What it is called.
        path: The file that is changed, below the folder of originals.
        use: Reads it as commands do, given that folder; returns what a person would be shown.
        reseal: Whether a manifest beside it has its checksum, which a forger would put right.
    """

    name: str
    path: str
    use: Callable[[Path], str]
    reseal: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one mutation: ``refused`` in one line, ``read`` (it may be harmless), or else a survivor's story."""

    kind: str
    state: str
    seconds: float
    told: str = ""


def make_originals(folder: Path, backbone: Any) -> None:
    """Write one artifact of every kind."""
    write_routable(folder / "routable", backbone, ["yes-no", "topics-news"], rows=20, second="full")
    write_parts(folder / "parts", backbone, ["one", "two"])
    _write_dense(folder / "dense", folder / "routable")
    for name in ("yes-no", "topics-news"):
        (shutil.copytree(folder / "routable" / name, folder / "bare" / name) / MANIFEST).unlink()
    write_run(folder / "runs", "n-lora", 1, [[8], [6, 9]])
    write_run(folder / "runs", "seq-lora", 1, [[8], [3, 9]])
    (folder / "routes").mkdir()
    write_routes(folder / "routes" / "routes.json")
    (folder / "recipe").mkdir()
    (folder / "recipe" / "small.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "plan").mkdir()
    shutil.copyfile(folder / "routable" / "yes-no" / MANIFEST, folder / "plan" / "plan.json")


def _write_dense(out: Path, package: Path) -> None:
    from clora_cli.options import MergeOptions
    from clora_cli.transforming import merge_adapters, plan_merge

    merge_adapters(plan_merge(read_package([package]), MergeOptions(strategy="magmax", out=out)))


def attack(kind: Kind, originals: Path, work: Path, seed: int) -> Outcome:
    """Change one file of a fresh copy, by a seed, and have it read."""
    chosen = random.Random(f"{kind.name}/{seed}")
    place = Path(kind.path).parts[0]
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(originals / place, work / place)
    path = work / kind.path
    mutate(path, chosen)
    if kind.reseal and chosen.random() < 0.8:
        _reseal(path)
    start = time.process_time()
    try:
        with _alarm():
            told = kind.use(work)
        state, story = "read", _checked(told)
    except CloraError as error:
        state, story = "refused", _checked_error(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        state, story = "survived", f"{type(error).__name__}: {error}"
    seconds = time.process_time() - start
    if story or seconds > PATIENCE:
        return Outcome(kind.name, "survived", seconds, story[:300] or "too slow")
    return Outcome(kind.name, state, seconds)


def _checked(told: str) -> str:
    odd = [line for line in told.split("\n") if not is_legible(line.replace("\t", " "))]
    return f"shown as it is: {odd[0][:80]!r}" if odd else ""


def _checked_error(error: CloraError) -> str:
    if error.exit_code not in {2, 3, 4}:
        return f"exit code {error.exit_code}: {error}"
    return ""


class TooSlowError(BaseException):
    """Breaks off what would not end."""


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(_GIVEN_UP)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def mutate(path: Path, chosen: random.Random) -> None:
    """Change a file: its place on disk, its bytes, or the values in it."""
    how = chosen.random()
    if how < 0.05:
        _replace(path, chosen)
    elif how < 0.3:
        path.write_bytes(_bytes(path.read_bytes(), chosen))
    elif path.suffix in {".safetensors", ".clora"}:
        _tensors(path, chosen)
    elif path.suffix == ".yaml":
        path.write_text(_yaml(path.read_text(encoding="utf-8"), chosen), encoding="utf-8")
    elif path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines()
        number = chosen.randrange(len(lines))
        lines[number] = _json(lines[number], chosen)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        path.write_text(_json(path.read_text(encoding="utf-8"), chosen), encoding="utf-8")


def _replace(path: Path, chosen: random.Random) -> None:
    path.unlink()
    how = chosen.randrange(5)
    if how == 0:
        os.mkfifo(path)
    elif how == 1:
        path.symlink_to(path.name)
    elif how == 2:
        path.symlink_to("/dev/zero")
    elif how == 3:
        path.mkdir()
    else:
        path.write_bytes(b"")


def _bytes(content: bytes, chosen: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chosen.choice([1, 1, 2, 8])):
        start = chosen.randrange(len(changed) + 1)
        length = chosen.choice([1, 4, 16, 200])
        how = chosen.randrange(5)
        if how == 0 and start < len(changed):
            changed[start] ^= 1 << chosen.randrange(8)
        elif how == 1:
            del changed[start : start + length]
        elif how == 2:
            changed[start:start] = chosen.randbytes(length)
        elif how == 3:
            changed[start:start] = changed[start : start + length] * 2
        else:
            del changed[start:]
    return bytes(changed)


def _json(text: str, chosen: random.Random) -> str:
    """Replace, remove, add or double one value somewhere in JSON."""
    value = json.loads(text)
    containers = list(_containers(value))
    for _ in range(chosen.choice([1, 1, 1, 3])):
        inside = chosen.choice(containers)
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        how = chosen.random()
        if keys and how < 0.7:
            inside[chosen.choice(keys)] = _Raw(chosen.choice(RAW))
        elif keys and how < 0.85:
            del inside[chosen.choice(keys)]
        elif isinstance(inside, dict):
            inside[chosen.choice(["", "__proto__", "\x1b[31m", "a" * 3000, "\u202e"])] = _Raw(chosen.choice(RAW))
        else:
            inside.append(_Raw(chosen.choice(RAW)))
    return _dumped(value)


class _Raw:
    def __init__(self, text: str) -> None:
        self.text = text


def _dumped(value: Any) -> str:
    raw: list[str] = []

    def keep(one: Any) -> str:
        raw.append(one.text)
        return f"@raw{len(raw) - 1}@"

    text = json.dumps(value, default=keep)
    for number, one in enumerate(raw):
        text = text.replace(f'"@raw{number}@"', one)
    return text


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)


def _tensors(path: Path, chosen: random.Random) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length].decode(), bytearray(content[8 + length :])
    if chosen.random() < 0.5:
        header = _header(header, chosen)
    else:
        odd = chosen.choice([float("nan"), float("inf"), -float("inf"), 1e30, 1e38, 5e6])
        start = 4 * chosen.randrange(len(data) // 4)
        data[start : start + 4] = struct.pack("<f", odd)
    encoded = header.encode("utf-8", "surrogatepass")
    told = len(encoded) if chosen.random() < 0.9 else chosen.choice([0, 1 << 20, 1 << 40, (1 << 64) - 1])
    path.write_bytes(told.to_bytes(8, "little") + encoded + data)


def _header(header: str, chosen: random.Random) -> str:
    content = json.loads(header)
    record = (content.get("__metadata__") or {}).get("clora")
    if record and chosen.random() < 0.6:
        content["__metadata__"]["clora"] = _json(record, chosen)
        return json.dumps(content)
    return _json(header, chosen)


def _yaml(text: str, chosen: random.Random) -> str:
    how = chosen.random()
    if how < 0.1:
        return BOMB + text
    lines = text.splitlines()
    number = chosen.randrange(len(lines))
    key, colon, _ = lines[number].partition(": ")
    if colon and how < 0.8:
        lines[number] = f"{key}: {chosen.choice(YAML)}"
    elif how < 0.9:
        lines.insert(number, chosen.choice(lines))
    else:
        lines[number] = chosen.choice(YAML)
    return "\n".join(lines) + "\n"


def _reseal(path: Path) -> None:
    manifest = path.parent / MANIFEST
    if not (manifest.is_file() and path.is_file()):
        return
    content = json.loads(manifest.read_text(encoding="utf-8"))
    if path.name in content["files"]:
        content["files"][path.name] = sha256(path)
    manifest.write_text(json.dumps(content), encoding="utf-8")


def _use_package(package: Path) -> str:
    """Show, examine, merge, unite and route among a package's adapters, as far as files go."""
    from clora_cli.base.legible import legible
    from clora_cli.cli.show import _adapter_text, _package_text
    from clora_cli.model.task_vectors import read_task_vector
    from clora_cli.options import ExpandOptions, MergeOptions
    from clora_cli.presenting.difference_forms import difference_table
    from clora_cli.reporting.collect import collect
    from clora_cli.reporting.differences import difference
    from clora_cli.routing.route_settings import route_options, tasks_known
    from clora_cli.store.ledger import read_masks
    from clora_cli.transforming import plan_expand, plan_merge

    members = read_package([package])
    told = [_package_text(members), *map(_adapter_text, members), *(str(tasks_known(one)) for one in members)]
    for member in members:
        member.state()
        read_masks(member)
        read_task_vector(member)
        _ = member.digest, member.combine, member.data_names
    route_options(members, {})
    _ = collect([package]).manifests
    told.append(difference_table(difference(members)))
    list(plan_merge(members, MergeOptions(strategy="sum")).sites(lambda done, status: None))
    plan_expand([package], ExpandOptions(out=package.parent / "union"))
    if all(one.features.is_file() for one in members):
        _route(members)
    return legible("\n".join(told), lines=True)


def _route(members: list[AdapterFolder]) -> None:
    import torch

    from clora_cli.model.base_model import ModelReference
    from clora_cli.options import RouteOptions
    from clora_cli.routing.profiles import known_by
    from clora_cli.store.distribution import read_distribution

    mark = str(members[0].base["fingerprint"])
    options = RouteOptions()
    known = known_by(ModelReference("made-up", Path(), "causal", mark), members, options)
    routing = known.routing(options, None, None)
    moments = read_distribution(members[0].features, known.sites).sites
    width = len(moments[known.sites[0]].mean)
    routing.weights(routing.similarities({known.sites[0]: torch.zeros(1, width)}))


def _use_one(folder: Path) -> str:
    from clora_cli.base.legible import legible
    from clora_cli.cli.show import _adapter_text

    member = read_adapter(folder)
    return legible(_adapter_text(member), lines=True)


def _use_report(folder: Path) -> str:
    from clora_cli.base.legible import legible
    from clora_cli.presenting.latex import latex_table
    from clora_cli.presenting.report_file import write_report
    from clora_cli.presenting.report_text import report_text
    from clora_cli.reporting.assembly import make_report
    from clora_cli.reporting.collect import collect

    report = make_report(collect([folder]))
    out = folder.parent / "out"
    for ending in ("json", "csv", "md") if report.results.runs else ("json", "md"):
        write_report(report, out / f"r.{ending}")
    latex = latex_table(report.standings)
    files = [path.read_text(encoding="utf-8") for path in sorted(out.glob("*.csv"))]
    return "\n".join([legible(report_text(report), lines=True), latex, *files])


def _use_recipe(folder: Path) -> str:
    from clora_cli.base.legible import legible
    from clora_cli.recipes import read_recipe_file, to_yaml
    from clora_cli.recipes.steps import script, units_of

    recipe = read_recipe_file(folder / "small.yaml")
    units = units_of(recipe, ())
    return legible("\n".join([to_yaml(recipe), script(recipe, units)]), lines=True)


def _use_plan(folder: Path) -> str:
    from clora_cli.base.legible import legible

    return legible(differences({"data": {"name": "x"}, "seed": 1}, read_json(folder / "plan.json", "plan")))


KINDS = (
    Kind("manifest", f"routable/yes-no/{MANIFEST}", lambda work: _use_package(work / "routable")),
    Kind("manifest of a part", f"parts/one/{MANIFEST}", lambda work: _use_package(work / "parts")),
    Kind("adapter_config", f"routable/yes-no/{CONFIG}", lambda work: _use_package(work / "routable"), reseal=True),
    Kind("adapter_config, bare", f"bare/yes-no/{CONFIG}", lambda work: _use_package(work / "bare")),
    Kind("tensors", f"routable/yes-no/{WEIGHTS}", lambda work: _use_package(work / "routable"), reseal=True),
    Kind("tensors, bare", f"bare/yes-no/{WEIGHTS}", lambda work: _use_package(work / "bare")),
    Kind("dense deltas", f"dense/{DENSE}", lambda work: _use_one(work / "dense"), reseal=True),
    Kind("features", f"routable/yes-no/{FEATURES}", lambda work: _use_package(work / "routable")),
    Kind("state", f"parts/one/{STATE}", lambda work: _use_package(work / "parts"), reseal=True),
    Kind("scores", "runs/n-lora/seed-1/scores/2-second.json", lambda work: _use_report(work / "runs")),
    Kind("cost.jsonl", "runs/cost.jsonl", lambda work: _use_report(work / "runs")),
    Kind("routes", "routes/routes.json", lambda work: _use_report(work / "routes")),
    Kind("recipe", "recipe/small.yaml", lambda work: _use_recipe(work / "recipe")),
    Kind("plan.json", "plan/plan.json", lambda work: _use_plan(work / "plan")),
)
