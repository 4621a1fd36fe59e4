"""Answer batches of mixed tasks with one load of the base model (layer L3); nothing here knows of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clora_cli.base.errors import ArtifactError, CloraError, ReplacedError, translated
from clora_cli.base.progress import Progress
from clora_cli.evaluation.prompts import pass_cost
from clora_cli.model.backbone import load_backbone, pick_device
from clora_cli.model.bank import AdapterBank
from clora_cli.model.base_model import check_writes, is_local
from clora_cli.options import ServeOptions
from clora_cli.serving.answering import Ready, Where, answer_group, encoded, groups
from clora_cli.serving.asked import AUTO, BASE, Asked, read_choice
from clora_cli.serving.held import Held
from clora_cli.serving.watch import Watch
from clora_cli.store.package import find_base, read_package

__all__ = ["Service"]

_PASSES = 4  # in positions: what a pass saves is then no longer worth the memory that both at once take
_TURNS = 20  # attempts at a batch while others keep replacing adapters


class Service:
    """Answers prompts by the adapters of a package; to be used by one thread.

    Args:
        paths: Adapter folders and packages.
        options: How.
        progress: Told where the adapters' own word leads to the Hub.
        log: Takes an entry whenever what is served changes, or can no longer be.

    Attributes:
        trouble: Why what is on disk now is not served; empty if it is.
        lost: Whether what was served before is gone, too, so that nothing is.

    Raises:
        CloraError: If the package is damaged or does not fit the base model.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        options: ServeOptions,
        progress: Progress | None = None,
        log: Callable[[Mapping[str, Any]], None] = lambda entry: None,
    ) -> None:
        self._paths, self._options, self._watch, self._log = paths, options, Watch(paths), log
        state = self._watch.look()
        members = read_package(paths)
        self._reference = find_base(members, options.model, options.revision, progress)
        check_writes(self._reference)
        self._backbone = load_backbone(
            self._reference, device=pick_device(options.device), dtype=options.dtype, progress=progress
        )
        self._bank = AdapterBank(self._backbone.model)
        self.held = Held(members, self._backbone, self._bank, options)
        self.held.activate()
        self._watch.took(state)
        self.trouble, self.lost = "", False

    @property
    def base(self) -> str:
        """The base model's name."""
        name = self._reference.id
        return Path(name).name if is_local(name) else name

    @property
    def status(self) -> str:
        """``ok``; ``stale`` while what is on disk cannot be taken up; ``down`` if what was served is gone, too."""
        return "down" if self.lost else "stale" if self.trouble else "ok"

    @property
    def models(self) -> list[str]:
        """The names that a request may ask for."""
        taken = {AUTO, BASE, self.base}
        return [AUTO, self.base, *(f"{BASE}:{name}" if name in taken else name for name in self.held.names)]

    def refresh(self) -> None:
        """Take up what is on disk now, whole or not at all.

        What cannot be taken up leaves the former version in place, as long as all of that is still on disk.
        """
        if not self._watch.changed():
            return
        state, before = self._watch.look(), (self.held.version, self.trouble)
        try:
            with translated("the package on disk cannot be read", ArtifactError, code="served-package-unreadable"):
                held = Held(read_package(self._paths), self._backbone, self._bank, self._options)
                if held.unrouted and not self.held.unrouted and self.held.is_there():
                    raise ArtifactError(held.unrouted, code="served-package-unrouted")
                held.activate()
        except CloraError as error:
            self.trouble, self.lost = str(error), not self.held.is_there()
        else:
            self.held, self.trouble, self.lost = held, "", False
        self._watch.took(state)
        if before != (self.held.version, self.trouble):
            told = {"status": self.status, "version": self.held.version, "adapters": len(self.held.names)}
            self._log({"event": "package", **told, **({"trouble": self.trouble} if self.trouble else {})})

    def answer(self, batch: Sequence[Asked]) -> None:
        """Answer prompts, or only route those that ask for no more; every listener is told.

        Args:
            batch: In any mixture of adapters and settings.
        """
        left = batch
        for _ in range(_TURNS):
            left = self._attempt([asked for asked in left if asked.listener.wanted()])
            if not left:
                return
        for asked in left:
            asked.listener.failed(_gone("its adapters keep being replaced"))

    def _attempt(self, batch: Sequence[Asked]) -> list[Asked]:
        """Answer what can be answered; return those whose adapters were replaced before they were read."""
        self.refresh()
        if self.lost:
            for asked in batch:
                asked.listener.failed(_gone(self.trouble))
            return []
        ready = self._beside([one for asked in batch if (one := self._ready(asked)) is not None])
        placed = self._placed([one for one in ready if not (one.within or one.beside)])
        for one, verdict in placed.items():
            if one.decoding is None:
                one.asked.listener.decided(verdict.verdict)
        left = []
        answering = [one for one in ready if one.decoding is not None and (one.within or one.beside or one in placed)]
        for group in groups(answering, self._backbone.tokens.positions, self._options.batch_size):
            try:
                answer_group(self._backbone, self.held, group, placed)
            except ReplacedError:
                left += [one.asked for one in group]
            except CloraError as error:
                _fail(group, error)
        return left

    def _ready(self, asked: Asked) -> Ready | None:
        """Return a prompt as it goes into the model; None if it cannot, which its listener is told."""
        try:
            choice = read_choice(asked.model, self.held.names, self.base)
            within = self.held.chooses(choice) and self.held.decides_within and asked.decoding is not None
            return encoded(self._backbone, asked, choice, self._options.max_length, within=within)
        except CloraError as error:
            asked.listener.failed(error)
            return None

    def _beside(self, ready: Sequence[Ready]) -> list[Ready]:
        """Mark the prompts that decide by copies of themselves, where one pass over both is worth more than two passes."""
        able = [one for one in ready if one.decoding is not None and not one.within and self.held.chooses(one.choice)]
        if sum(len(one.ids) for one in able) > _PASSES * pass_cost(self._backbone.device):
            return list(ready)
        marked = {one for one in able if self.held.decides_beside(one.ids)}
        return [replace(one, beside=True) if one in marked else one for one in ready]

    def _placed(self, ready: Sequence[Ready]) -> dict[Ready, Where]:
        """Return where each prompt goes; those that cannot be read are left out, and their listeners told."""
        if not ready:
            return {}
        try:
            full = any(one.decoding is None for one in ready)
            found = self.held.place([one.asked.input for one in ready], [one.choice for one in ready], full=full)
        except CloraError as error:
            if len(ready) > 1:
                return {one: where for each in ready for one, where in self._placed([each]).items()}
            _fail(ready, error)
            return {}
        return {one: Where(found, row) for row, one in enumerate(ready)}


def _fail(ready: Sequence[Ready], error: CloraError) -> None:
    for one in ready:
        one.asked.listener.failed(error)


def _gone(why: str) -> ArtifactError:
    return ArtifactError(
        f"the package on disk cannot be served, and what it replaces is gone: {why}", code="served-package-gone"
    )
