"""Fixtures that all tests share. Everything runs offline, on the CPU, on one thread."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

_KEPT = {"CLORA_DATA", "CLORA_TEST_MODEL"}
for _name in [name for name in os.environ if name.startswith("CLORA_") and name not in _KEPT]:
    del os.environ[_name]
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    # A shell starts its background jobs with SIGINT ignored, nohup all with SIGHUP, and so would be every process that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> None:
    # Thousands of small folders are written here, and each takes the disk a tenth of a second. Tests of what is written when
    # look at the calls themselves.
    os.fsync = lambda descriptor: None


@pytest.fixture(scope="session", autouse=True)
def _no_looking_through_the_libraries() -> None:
    # Every training has the Trainer collect garbage, and to look through all objects of pytest and the libraries takes longer
    # than the training. What Python collects by itself it still does.
    gc.collect = lambda generation=2: 0


@pytest.fixture(autouse=True)
def _library_noise_off() -> Iterator[None]:
    # What cli.main() does for a user's process, done here for the in-process calls.
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give a family's saved model: ``llama gpt2 t5 encoder-decoder bert``; another seed gives another model."""
    from support import save_model

    root = tmp_path_factory.mktemp("models")

    @cache
    def saved(family: str, seed: int = 0) -> Path:
        return save_model(family, root / f"{family}-{seed}", seed)

    return saved


@pytest.fixture
def backbone(model_folder: Callable[..., Path]) -> Callable[..., object]:
    """Load a family's model afresh, so that no test sees another's hooks."""
    import torch

    from clora_cli.model.backbone import load_backbone
    from clora_cli.model.base_model import find_model

    def load(family: str = "llama", seed: int = 0) -> object:
        return load_backbone(find_model(str(model_folder(family, seed))), device=torch.device("cpu"))

    return load


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[..., object]]:
    """Run a command in several processes, as a launcher does."""
    from ranks import Ranks

    launched = Ranks()
    yield launched
    launched.close()


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three labelled tasks of 24 training and 9 test rows."""
    from support import write_task

    root = tmp_path_factory.mktemp("tasks")
    return {name: write_task(root / name, seed) for seed, name in enumerate(("first", "second", "third"))}


@pytest.fixture(scope="session")
def bert(model_folder: Callable[..., Path]) -> Path:
    """An encoder without its head."""
    return model_folder("bert")


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two tasks of classes, ``warm`` of two and ``cold`` of three."""
    from encoders import COLD, WARM, write_colours

    root = tmp_path_factory.mktemp("colours")
    return [write_colours(root / "warm", WARM), write_colours(root / "cold", COLD)]


@pytest.fixture(scope="session")
def sequence(tmp_path_factory: pytest.TempPathFactory, bert: Path, colours: list[Path]) -> Path:
    """Both by seq-lora, whose last adapter answers for both."""
    from encoders import train_both

    return train_both(bert, colours, tmp_path_factory.mktemp("sequence") / "pkg", method="seq-lora")


@pytest.fixture(scope="session")
def summed(tmp_path_factory: pytest.TempPathFactory, bert: Path, colours: list[Path]) -> Path:
    """Both by inc-lora, each of whose adapters has its own classes."""
    from encoders import train_both

    return train_both(bert, colours, tmp_path_factory.mktemp("summed") / "pkg", method="inc-lora")


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image model without its head."""
    from images import save_seeing

    return save_seeing("vit", tmp_path_factory.mktemp("vit") / "vit")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two tasks of drawings, ``round`` of two classes and ``straight`` of three."""
    from images import ROUND, STRAIGHT, write_shapes

    root = tmp_path_factory.mktemp("shapes")
    return [write_shapes(root / "round", ROUND), write_shapes(root / "straight", STRAIGHT)]


@pytest.fixture(scope="session")
def drawings(tmp_path_factory: pytest.TempPathFactory, vit: Path, shapes: list[Path]) -> Path:
    """Both by seq-lora, whose last adapter answers for both."""
    from encoders import train_both

    chosen = {"method": "seq-lora", "max_steps": 24, "lr": 3e-2, "target_modules": ()}
    return train_both(vit, shapes, tmp_path_factory.mktemp("drawings") / "pkg", **chosen)
