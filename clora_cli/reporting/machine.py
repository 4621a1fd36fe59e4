"""What works on this machine: libraries, extras, devices, space, data, models, completion (layer L3).

Each look is one :class:`Check`. Looking changes nothing, loads no model and asks no network.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import Requirement

from clora_cli import __version__
from clora_cli.base.errors import CloraError
from clora_cli.base.intake import named_path
from clora_cli.base.versions import installed_version, library_versions
from clora_cli.data import list_tasks
from clora_cli.data.root import data_root
from clora_cli.model.base_model import find_model
from clora_cli.model.half_precision import computes_in
from clora_cli.nano import MODEL_NAME

__all__ = ["BROKEN", "MISSING", "OK", "Check", "look"]

OK = "ok"
MISSING = "missing"
BROKEN = "broken"
DISTRIBUTION = "clora-cli"
_LOADED = ("torch", "transformers", "peft")
_GIB = 1 << 30
_HALF = ("bfloat16", "float16")
# Where `clora --install-completion` writes, by shell.
_COMPLETIONS = {
    "bash": ".bash_completions/clora.sh",
    "zsh": ".zfunc/_clora",
    "fish": ".config/fish/completions/clora.fish",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        about: What it is, in a word or two.
        state: ``ok``; ``missing``, which most people can do without; ``broken``, without which commands fail.
        told: What was found.
        mend: What to do about it; empty where nothing is to be done.
    """

    about: str
    state: str
    told: str
    mend: str = ""


def look() -> Iterator[Check]:
    """Look at everything, one thing after another."""
    yield from _requirements()
    for check in (
        _imports,
        _pytorch,
        _half_precision,
        _devices,
        _memory,
        _disk,
        _bundled_model,
        _data,
        _hub,
        _variables,
        _completion,
    ):
        yield _guarded(check)


def _guarded(check: Callable[[], Check]) -> Check:
    """A library or a disk in disorder must not keep the rest from being looked at."""
    try:
        return check()
    except (CloraError, ImportError, OSError, RuntimeError) as error:
        return Check(check.__name__.strip("_").replace("_", " "), BROKEN, " ".join(str(error).split()))


def _requirements() -> Iterator[Check]:
    """Compare the libraries with what clora's own distribution asks for, extra by extra."""
    try:
        found = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        yield Check("clora", MISSING, f"{__version__}, run without being installed", "pip install .")
        return
    requires = [Requirement(text) for text in found.get_all("Requires-Dist") or ()]
    wanted = next(iter(found.get_all("Requires-Python") or ()), "")
    fits = Requirement(f"python{wanted}").specifier.contains(platform.python_version(), prereleases=True)
    told = f"{platform.python_version()} at {sys.executable}"
    yield Check("python", OK if fits else BROKEN, told, "" if fits else f"use Python {wanted}")
    needed = [one for one in requires if one.marker is None or _applies(one, "")]
    wrong = [problem for one in needed if (problem := _problem(one))]
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items() if name != "python")
    yield Check("libraries", BROKEN if wrong else OK, "; ".join(wrong) or versions, "pip install ." if wrong else "")
    for extra in found.get_all("Provides-Extra") or ():
        if extra != "test":
            own = [one for one in requires if one.marker and _applies(one, extra) and one not in needed]
            lacking = [problem for one in own if (problem := _problem(one))]
            told = "; ".join(lacking) or ", ".join(f"{one.name} {installed_version(one.name)}" for one in own)
            mend = f"pip install '{DISTRIBUTION}[{extra}]'" if lacking else ""
            yield Check(f"extra {extra}", MISSING if lacking else OK, told, mend)


def _applies(requirement: Requirement, extra: str) -> bool:
    try:
        return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
    except UndefinedEnvironmentName:
        return False


def _problem(requirement: Requirement) -> str:
    version = installed_version(requirement.name)
    if not version:
        return f"no {requirement.name}"
    fits = requirement.specifier.contains(version, prereleases=True)
    return "" if fits else f"{requirement.name} {version} is not {requirement.specifier}"


def _imports() -> Check:
    """Import what all commands that load a model import: libraries refuse one another's versions there."""
    for name in _LOADED:
        import_module(name)
    return Check("imports", OK, ", ".join(_LOADED))


def _pytorch() -> Check:
    import torch

    threads = torch.get_num_threads()
    product = torch.ones(2, 2) @ torch.ones(2, 2)
    right = float(product.sum()) == 8
    return Check("pytorch", OK if right else BROKEN, f"computes, {threads} threads of {os.cpu_count()} processors")


def _half_precision() -> Check:
    lacking = [name for name in _HALF if not computes_in(name)]
    told = f"the processor has {'no ' if lacking else ''}instructions for {' and '.join(lacking or _HALF)}"
    mend = "on the processor leave --dtype at float32, its default; half precision takes many times as long"
    return Check("half precision", MISSING if lacking else OK, told, mend if lacking else "")


def _devices() -> Check:
    import torch

    if torch.cuda.is_available():
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        told = ", ".join(f"{card.name} ({card.total_memory / _GIB:.0f} GiB)" for card in cards)
        return Check("devices", OK, told)
    if torch.backends.mps.is_available():
        return Check("devices", OK, "mps (Apple)")
    return Check("devices", MISSING, "processor alone", "large models need a GPU; clora-nano does not")


def _memory() -> Check:
    page = os.sysconf("SC_PAGE_SIZE")
    whole = page * os.sysconf("SC_PHYS_PAGES") / _GIB
    free = f", {page * os.sysconf('SC_AVPHYS_PAGES') / _GIB:.1f} GiB free" if sys.platform == "linux" else ""
    enough = whole >= 2
    told = f"{whole:.1f} GiB{free}"
    return Check("memory", OK if enough else MISSING, told, "" if enough else "clora-nano takes about 1 GiB to train")


def _disk() -> Check:
    here = shutil.disk_usage(Path.cwd())
    writable = os.access(Path.cwd(), os.W_OK)
    told = f"{here.free / _GIB:.1f} GiB free in {Path.cwd()}{'' if writable else ', which is not writable'}"
    good = writable and here.free > _GIB // 4
    return Check("disk", OK if good else BROKEN, told, "" if good else "work in another folder, or make room")


def _bundled_model() -> Check:
    reference = find_model(MODEL_NAME)
    return Check("bundled model", OK, f"{MODEL_NAME}, fingerprint {reference.fingerprint[:12]}")


def _data() -> Check:
    infos, root = list_tasks(), data_root()
    bundled = sum(info.where == "bundled" for info in infos)
    if root is None or not root.is_dir():
        told = f"{bundled} bundled tasks; CLORA_DATA is {f'no folder: {root}' if root else 'not set'}"
        return Check("data", MISSING, told, "CLORA_DATA=FOLDER with CL_Benchmark, Natural-Instructions or TRACE in it")
    there = sum(info.where.startswith(str(root)) for info in infos)
    told = f"{bundled} bundled tasks, {there} of {len(infos) - bundled} known benchmark tasks in {root}"
    return Check(
        "data", OK if there else MISSING, told, "" if there else "`clora tasks` tells which names are looked for"
    )


def _hub() -> Check:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    cache = Path(HF_HUB_CACHE)
    models, sets = (len(list(cache.glob(f"{kind}--*"))) for kind in ("models", "datasets"))
    told = f"{models} models and {sets} data sets in {cache}"
    return Check(
        "hub", OK, f"{told}; {'offline: HF_HUB_OFFLINE is set' if HF_HUB_OFFLINE else 'asked where it is needed'}"
    )


def _variables() -> Check:
    names = sorted(name for name in os.environ if name.startswith("CLORA_"))
    return Check("variables", OK, ", ".join(names) or "no CLORA_… variable is set: options have their defaults")


def _completion() -> Check:
    shell = Path(os.environ.get("SHELL", "")).name
    where = _COMPLETIONS.get(shell)
    if where is None:
        return Check("completion", MISSING, f"{shell or 'no shell'} is none of {', '.join(_COMPLETIONS)}")
    there = (named_path("~") / where).is_file()
    told = f"{shell}, {'in' if there else 'not in'} ~/{where}"
    return Check("completion", OK if there else MISSING, told, "" if there else "clora --install-completion")
