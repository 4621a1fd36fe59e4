"""Feature distributions on disk (layer L1): ``features.clora`` of an adapter folder, a safetensors file.

One file describes an adapter's inputs as the frozen base model sees them: for each site the moments of their pooled
features, and in the file's metadata how they were taken. So adding or replacing it is one atomic rename, and works for
folders without a manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.base.files import write_bytes
from clora_cli.base.intake import parse_json
from clora_cli.model.base_model import same_base
from clora_cli.store.feature_record import FeatureRecord
from clora_cli.store.tensors import opened

if TYPE_CHECKING:
    from torch import Tensor

    from clora_cli.algebra.statistics import Groups, Moments

__all__ = [
    "COMPARABLE",
    "SCHEMA",
    "Distribution",
    "agree",
    "read_distribution",
    "read_record",
    "read_sites",
    "same_encoder",
]

SCHEMA = "clora.features/1"
# Entries that must be equal in distributions that are compared with each other, and with an input.
COMPARABLE = ("source", "pool", "text")
_KEY = "clora"
_MEND = "make it again"
_LARGEST = 3.4028235e38  # float32's largest number: squares of what is larger, of no feature, may not be finite
_ROUNDING = 1e-6
# Files, by their state then, whose checksum was already verified: one command may read a file in several parts.
_checked: set[tuple[str, int, int, int]] = set()


@dataclass(frozen=True, eq=False)
class Distribution:
    """An adapter's feature distribution.

    Attributes:
        sites: Site to the moments of its features.
        record: How they were taken.
    """

    sites: Mapping[str, Moments]
    record: FeatureRecord

    @property
    def count(self) -> int:
        """Number of inputs it was computed from."""
        return next(iter(self.sites.values())).count if self.sites else 0

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            CloraError: If it cannot be written; what was there stays.
        """
        write_bytes(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the content of the file: equal distributions give equal bytes."""
        from safetensors.torch import save

        tensors = self._tensors()
        record = {**self.record.raw, "schema": SCHEMA, "sha256": _digest(sorted(tensors.items()))}
        # A single entry: several would be written in random order, and equal distributions must give equal bytes.
        metadata = {_KEY: json.dumps(record, sort_keys=True, ensure_ascii=False)}
        return save(tensors, metadata=metadata)

    def _tensors(self) -> dict[str, Tensor]:
        import torch

        tensors = {}
        for site, moments in sorted(self.sites.items()):
            tensors[f"count/{site}"] = torch.tensor(moments.count)
            tensors[f"mean/{site}"] = moments.mean.double().contiguous()
            if moments.scatter is not None:
                # Float32 halves by far the largest part; the sums themselves are computed in float64.
                kept = moments.scatter if moments.scatter.ndim == 1 else moments.scatter.float()
                tensors[f"{moments.second}/{site}"] = kept.contiguous()
            if moments.groups is not None:
                tensors[f"counts/{site}"] = moments.groups.counts.clone()
                tensors[f"means/{site}"] = moments.groups.means.double().clone()
        return tensors


def read_record(path: Path) -> FeatureRecord:
    """Read how a distribution was taken, but none of its tensors.

    Args:
        path: The file.

    Raises:
        ArtifactError: If the file is damaged, of a newer format, or was written by something else.
    """
    with _opened(path) as file:
        return _record(path, file.metadata() or {})


def read_sites(path: Path) -> list[str]:
    """Return the sites of a distribution, sorted, without reading any tensor.

    Raises:
        ArtifactError: As ``read_record``.
    """
    with _opened(path) as file:
        return sorted({key.partition("/")[2] for key in file.keys()})


def read_distribution(path: Path, sites: Collection[str] | None = None) -> Distribution:
    """Read a distribution, or some sites of it.

    Args:
        path: The file.
        sites: The sites to read; all by default. Those that the file lacks are left out.

    Raises:
        ArtifactError: As ``read_record``, and if any number in the file differs from what was written.
    """
    with _opened(path) as file:
        record = _record(path, file.metadata() or {})
        _check_sum(path, file, record)
        keys = [key for key in file.keys() if sites is None or key.partition("/")[2] in sites]
        tensors = {key: file.get_tensor(key) for key in keys}
    names = dict.fromkeys(key.partition("/")[2] for key in tensors)
    distribution = Distribution({site: _moments(path, tensors, site) for site in sorted(names)}, record)
    if len({moments.count for moments in distribution.sites.values()}) > 1:
        raise _damaged(path, "its sites are of different numbers of inputs")
    return distribution


def same_encoder(one: FeatureRecord, other: FeatureRecord) -> bool:
    """Tell whether two distributions are of one text encoder, wherever it lay, or both of the base model."""
    if one.encoder is None or other.encoder is None:
        return one.encoder is other.encoder
    return same_base(one.encoder.raw, other.encoder.raw)


def agree(records: Sequence[tuple[Path, FeatureRecord]]) -> None:
    """Check that distributions can be compared.

    Args:
        records: The path and the record of each; any number of them.

    Raises:
        MismatchError: If two were taken differently, or from different base models.
    """
    for path, record in records[1:]:
        first_path, first = records[0]
        if not same_base(record.base_model.raw, first.base_model.raw):
            raise MismatchError(
                f"the distributions of {first_path} and {path} come from different base models "
                f"({first.base_model.id} and {record.base_model.id}); make one of them again",
                code="base-models-differ",
            )
        if not same_encoder(record, first):
            called = [f"encoder {one.encoder.id}" if one.encoder else "the base model's own" for one in (first, record)]
            raise MismatchError(
                f"the distributions of {first_path} and {path} do not compare: {called[0]} and {called[1]}; run "
                "`clora stat-features --force` on one of them, with --encoder as for the other",
                code="feature-distributions-incomparable",
            )
        for key in COMPARABLE:
            if record.raw[key] != first.raw[key]:
                raise MismatchError(
                    f"the distributions of {first_path} and {path} do not compare: {key} {first.raw[key]} and {record.raw[key]}; "
                    f"run `clora stat-features --force --{key} …` on one of them",
                    code="feature-distributions-incomparable",
                )


def _record(path: Path, metadata: Mapping[str, str]) -> FeatureRecord:
    try:
        content = parse_json(metadata[_KEY])
        schema = content["schema"]
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"{path} is no feature distribution: it lacks clora's record; {_MEND}", code="not-a-feature-distribution"
        ) from error
    if schema != SCHEMA:
        raise ArtifactError(
            f"{path} has format {schema!r}, this version reads {SCHEMA!r}; upgrade clora or {_MEND}",
            code="format-not-supported",
        )
    missing = [entry.key for entry in FeatureRecord.entries() if not entry.optional and entry.key not in content]
    if missing or not isinstance(content["base_model"], dict) or "fingerprint" not in content["base_model"]:
        raise _damaged(path, f"no {', '.join(missing) or 'fingerprint of the base model'}")
    if odd := FeatureRecord.wrong(content):
        raise _damaged(path, f"{odd} of its record has a wrong value")
    return FeatureRecord(content)


def _check_sum(path: Path, file: Any, record: FeatureRecord) -> None:
    """Verify the checksum, tensor by tensor; once per process as long as the file does not change."""
    now = path.stat()
    mark = (str(path.absolute()), now.st_ino, now.st_size, now.st_mtime_ns)
    if mark in _checked:
        return
    if record.sha256 != _digest((key, file.get_tensor(key)) for key in sorted(file.keys())):
        raise _damaged(path, "its numbers are not those that were written")
    _checked.add(mark)


def _moments(path: Path, tensors: Mapping[str, Tensor], site: str) -> Moments:
    try:
        count, mean = tensors[f"count/{site}"], tensors[f"mean/{site}"]
    except KeyError as error:
        raise _damaged(path, f"{error} is missing") from error
    from clora_cli.algebra.statistics import Moments

    scatter = tensors.get(f"full/{site}", tensors.get(f"diag/{site}"))
    if count.dtype.is_floating_point or count.dtype.is_complex or count.numel() != 1 or not 0 <= int(count) < 1 << 53:
        raise _damaged(path, f"'count/{site}' is no number of inputs")
    shapes = {tuple(mean.shape), tuple(mean.shape) * 2}
    for tensor in (mean, *([] if scatter is None else [scatter])):
        if mean.ndim != 1 or tuple(tensor.shape) not in shapes or not _are_numbers(tensor):
            raise _damaged(path, f"the numbers at '{site}' are not finite, or of another shape")
    moments = Moments(int(count), mean.double(), None if scatter is None else scatter.double())
    groups = _groups(path, tensors, site, moments) if f"means/{site}" in tensors else None
    return dataclasses.replace(moments, groups=groups)


def _groups(path: Path, tensors: Mapping[str, Tensor], site: str, moments: Moments) -> Groups:
    from clora_cli.algebra.statistics import Groups

    means, counts = tensors[f"means/{site}"], tensors.get(f"counts/{site}")
    whole = counts is not None and str(counts.dtype) == "torch.int64" and counts.ndim == 1 and len(counts) > 0
    if not whole or counts is None or int(counts.min()) < 1 or int(counts.sum()) != moments.count:
        raise _damaged(path, f"'counts/{site}' are no numbers of inputs that add up to 'count/{site}'")
    if tuple(means.shape) != (len(counts), *moments.mean.shape) or not _are_numbers(means):
        raise _damaged(path, f"the numbers at '{site}' are not finite, or of another shape")
    apart = (counts.double() / moments.count) @ means.double() - moments.mean
    if float(apart.abs().max()) > _ROUNDING * float(means.abs().max()):
        raise _damaged(path, f"'means/{site}' are not of groups whose mean is 'mean/{site}'")
    return Groups(counts, means.double())


def _are_numbers(tensor: Tensor) -> bool:
    wide = tensor.dtype.is_floating_point and tensor.element_size() > 1
    return wide and bool((tensor.abs() <= _LARGEST).all())


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    import torch

    digest = hashlib.sha256()
    for key, tensor in tensors:
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _damaged(path: Path, why: str) -> ArtifactError:
    return ArtifactError(f"feature distribution {path} is damaged: {why}; {_MEND}", code="feature-distribution-damaged")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with opened(path, "feature distribution", _MEND) as file:
            yield file
    except FileNotFoundError:
        raise ArtifactError(
            f"adapter {path.parent} has no feature distribution; "
            f"give it one with `clora stat-features {path.parent} --data <its task>`",
            code="feature-distribution-missing",
        ) from None
