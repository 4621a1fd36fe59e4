"""Low-rank algebra and PEFT's settings for it (layer L1): no files, no models.

A *site* is an adapted linear layer, named by its full module path in the base model. At a site, an adapter holds
``a`` of shape (rank, in) and ``b`` of shape (out, rank), PEFT's ``lora_A`` and ``lora_B``; its *delta* is
``scaling * b @ a`` of shape (out, in). A table of embeddings is a linear layer whose inputs are tokens, one of ``in`` each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex
import torch
from torch import Tensor
from torch.nn import functional

from clora_cli.algebra.head_names import head_modules

__all__ = [
    "HUGE",
    "Factor",
    "add_up",
    "bound",
    "concatenate",
    "config_problem",
    "factor_keys",
    "recompress",
    "row_tiles",
    "scaling_at",
    "sharing",
    "truncate",
]

# Settings under which PEFT computes something else than the base layer plus scaling * B A.
_NOT_PLAIN = (
    "use_dora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
# Settings of the two kinds by which PEFT calls its variants that change nothing of a finished adapter.
_ELSEWHERE = {"use_rslora", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_config"}
_ELSEWHERE |= {"runtime_config", "velora_config"}
# Values of init_lora_weights that leave the base weights alone; PiSSA, OLoRA, CorDA, LoftQ and others subtract from them.
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
HUGE = 65504.0  # float16's largest number: no weight of a network is larger, nor is what an adapter adds to one
_LARGEST = 1e6  # a scaling: alpha is tens
_PATTERN = 1000  # letters of a pattern in a configuration
_TOO_MUCH = re.compile(
    r"\{\d*,?\d{3}|\(\?(?![:=!])"
)  # hundreds of repetitions, which compile for ever; patterns that call themselves
_PATIENCE = 0.5  # seconds that a pattern may take at one site: some would take years
_EXACT = 512  # a matrix whose smaller side is at most this gets the exact SVD
_EXTRA = 16  # columns of the random sketch beyond the rank


@dataclass(frozen=True, eq=False)
class Factor:
    """One adapter's low-rank factors at one site.

    Attributes:
        a: ``lora_A``, shape (rank, in).
        b: ``lora_B``, shape (out, rank).
        scaling: The number that multiplies ``b @ a``; alpha / rank, or alpha / sqrt(rank) under rsLoRA.
    """

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        """The number of rows of ``a``."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The delta's shape, (out, in)."""
        return self.b.shape[0], self.a.shape[1]

    def delta(self) -> Tensor:
        """Return the dense delta, shape (out, in), float32. For tests and small layers: it is a full matrix."""
        return self.scaling * (self.b.float() @ self.a.float())


def factor_keys(site: str, embedding: bool = False) -> tuple[str, str]:
    """Return the names of a site's two factors in a PEFT LoRA file; a table of embeddings' have names of their own."""
    if embedding:
        return f"base_model.model.{site}.lora_embedding_A", f"base_model.model.{site}.lora_embedding_B"
    return f"base_model.model.{site}.lora_A.weight", f"base_model.model.{site}.lora_B.weight"


def config_problem(config: Mapping[str, Any]) -> str | None:
    """Say why an ``adapter_config.json`` is not a plain LoRA that can be summed exactly, or return None."""
    if config.get("peft_type") != "LORA":
        return f"its peft_type is {config.get('peft_type')!r}, not LORA"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        return "it trains biases beside the low-rank factors"
    if config.get("modules_to_save") and not head_modules(config):
        saved = config["modules_to_save"]
        return f"it replaces whole modules ({', '.join(map(str, saved)) if isinstance(saved, list) else saved})"
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        start = config["init_lora_weights"]
        return f"its start ({start}) changes the base weights; have PEFT convert it (path_initial_model_for_weight_conversion)"
    special = next((setting for setting in _NOT_PLAIN if config.get(setting)), None)
    if special:
        return f"it uses {special}, which is more than a sum of low-rank deltas"
    variants = (key for key in config if key.startswith("use_") or key.endswith("_config"))
    unknown = next((key for key in variants if config[key] and key not in _ELSEWHERE), None)
    return (
        f"it uses {unknown}, which clora does not know: it may be more than a sum of low-rank deltas"
        if unknown
        else None
    )


def scaling_at(config: Mapping[str, Any], site: str, rank: int | None = None) -> float:
    """Return the scaling of a site under an ``adapter_config.json``: patterns and rsLoRA included.

    Args:
        config: The configuration; one that leaves rank and alpha out has PEFT's defaults, 8 and 8.
        site: The site.
        rank: That of the site's tensors, if it is known.

    Raises:
        ValueError: If rank or alpha are no numbers that PEFT takes, or the rank is not that of the tensors.
    """
    try:
        declared = _at(config.get("rank_pattern"), site, config.get("r", 8))
        alpha = float(_at(config.get("alpha_pattern"), site, config.get("lora_alpha", 8)))
        scaling = alpha / (declared**0.5 if config.get("use_rslora") else declared)
    except (ArithmeticError, AttributeError, TypeError, TimeoutError, ValueError, regex.error) as error:
        raise ValueError(f"rank or alpha of '{site}': {error}") from error
    if not abs(scaling) <= _LARGEST or (rank is not None and declared != rank):
        raise ValueError(
            f"rank {declared} and alpha {alpha:g} of '{site}'{f', whose tensors have rank {rank}' if rank else ''}"
        )
    return float(scaling)


def concatenate(factors: list[Factor]) -> Factor:
    """Return one factor pair whose delta is the sum of the given deltas, exactly, with scaling 1.

    Args:
        factors: One or more pairs of one site; ranks may differ.

    Returns:
        ``a`` of shape (sum of ranks, in) and ``b`` of shape (out, sum of ranks), scalings folded into ``b``, which is float32 at
        least: times a scaling, half precision would be rounded.
    """
    a = torch.cat([factor.a for factor in factors], dim=0)
    b = torch.cat([_wide(factor.b) * factor.scaling for factor in factors], dim=1)
    return Factor(a, b, 1.0)


def sharing(factors: Sequence[Factor]) -> list[list[int]]:
    """Group the pairs of one site by what they share: one ``a``, number by number, and one scaling.

    Returns:
        The places of each group's pairs, groups in the order of their first; a pair that shares with none is a group.
    """
    groups: dict[tuple[object, ...], list[list[int]]] = {}
    for place, factor in enumerate(factors):
        # The first few numbers tell nearly all pairs apart, and spare the comparison of the whole.
        key = (factor.scaling, factor.a.dtype, factor.b.dtype, factor.a.shape, *factor.a[0, :4].tolist())
        seen = groups.setdefault(key, [])
        group = next((other for other in seen if torch.equal(factors[other[0]].a, factor.a)), None)
        if group is None:
            seen.append([place])
        else:
            group.append(place)
    return sorted(group for seen in groups.values() for group in seen)


def add_up(factors: Sequence[Factor], coefficients: Sequence[float]) -> Factor:
    """Return one pair whose delta is the sum of the given deltas, each times its coefficient.

    Pairs that share ``a`` and scaling stay one pair of their rank, with the sum of their ``b``; where no two of them use the
    same entry of ``b``, as with parts of one LoRA, a sum with equal coefficients keeps every number of theirs. Others are
    concatenated.

    Args:
        factors: One or more pairs of one site; ranks may differ.
        coefficients: One number for each.
    """
    groups = sharing(factors)
    sums = [_shared_sum([factors[i] for i in group], [coefficients[i] for i in group]) for group in groups]
    return sums[0] if len(sums) == 1 else concatenate(sums)


def bound(delta: Factor | Tensor) -> float:
    """Return a number that no entry of a delta exceeds in magnitude; NaN or infinity where one of its numbers is.

    Of factors it is the largest product of a row's norm of ``b`` and a column's of ``a``: no matrix is formed.
    """
    if isinstance(delta, Tensor):
        return float(delta.abs().max())
    rows, columns = delta.b.double().norm(dim=1), delta.a.double().norm(dim=0)
    return float(rows.max() * columns.max() * abs(delta.scaling))


def row_tiles(rows: int, columns: int, entries: int) -> Iterator[slice]:
    """Yield slices of a matrix's rows that hold at most so many entries each, and at least one row."""
    step = max(1, entries // columns)
    return (slice(start, min(rows, start + step)) for start in range(0, rows, step))


def recompress(factor: Factor, rank: int) -> tuple[Factor, float, float]:
    """Return the best approximation of a low-rank delta with a lower rank, without forming the delta.

    QR of both factors and the SVD of the small matrix between them: O((out + in) R^2 + R^3) for total rank R, where the
    SVD of the delta takes O(out * in * min(out, in)). Computed in float64.

    Args:
        factor: The pair.
        rank: Wanted rank, at least 1; where the delta has less, the rest is zeros.

    Returns:
        A pair of that rank and scaling 1, its energy (squared Frobenius norm), and the whole delta's energy.
    """
    q_b, r_b = torch.linalg.qr(factor.b.double() * factor.scaling)
    q_a, r_a = torch.linalg.qr(factor.a.double().mT)
    u, values, vh = torch.linalg.svd(r_b @ r_a.mT, full_matrices=False)
    energies = values.square()
    small = _balanced(q_b @ u[:, :rank], values[:rank], vh[:rank] @ q_a.mT, rank)
    return small, energies[:rank].sum().item(), energies.sum().item()


def truncate(delta: Tensor, rank: int, seed: int = 0) -> tuple[Factor, float, float]:
    """Return a rank-``rank`` approximation of a dense delta.

    Small matrices get the exact SVD; larger ones a randomised one with four power iterations, whose error is within a
    few per mille of the best.

    Args:
        delta: Shape (out, in).
        rank: Wanted rank, at least 1.
        seed: Of the randomised SVD.

    Returns:
        A pair of that rank and scaling 1, its energy (squared Frobenius norm), and the whole delta's energy.

    References:
        Halko, Martinsson and Tropp, Finding Structure with Randomness, 2011, arXiv:0909.4061, algorithms 4.4 and 5.1.
    """
    total = delta.double().square().sum().item()
    if min(delta.shape) <= max(_EXACT, 2 * rank):
        u, values, vh = torch.linalg.svd(delta.double(), full_matrices=False)
    else:
        generator = torch.Generator(delta.device).manual_seed(seed)
        sketch = torch.randn(delta.shape[1], rank + _EXTRA, generator=generator, device=delta.device, dtype=delta.dtype)
        basis = torch.linalg.qr(delta @ sketch).Q
        for _ in range(4):
            basis = torch.linalg.qr(delta @ torch.linalg.qr(delta.mT @ basis).Q).Q
        inner, values, vh = torch.linalg.svd(basis.mT @ delta, full_matrices=False)
        u = basis @ inner
    kept = values[:rank].double().square().sum().item()
    return _balanced(u[:, :rank], values[:rank], vh[:rank], rank), kept, total


def _shared_sum(factors: Sequence[Factor], coefficients: Sequence[float]) -> Factor:
    first, b = factors[0], factors[0].b
    if len(factors) == 1:
        return Factor(first.a, b, first.scaling * coefficients[0])
    alike = all(one == coefficients[0] for one in coefficients)
    total = torch.zeros_like(b, dtype=torch.float64)
    for factor, coefficient in zip(factors, coefficients, strict=True):
        total.add_(factor.b, alpha=1.0 if alike else coefficient)
    return Factor(first.a, total.to(_wide(b).dtype), first.scaling * coefficients[0] if alike else first.scaling)


def _wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or float64 where it has that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _balanced(u: Tensor, values: Tensor, vh: Tensor, rank: int) -> Factor:
    # The root of each singular value goes to either side, so that neither factor is much larger than the other.
    root, missing = values.sqrt(), rank - values.shape[0]
    a, b = (root[:, None] * vh).float(), (u * root).float()
    a, b = functional.pad(a, (0, 0, 0, missing)), functional.pad(b, (0, missing))
    return Factor(a.contiguous(), b.contiguous(), 1.0)


def _at(patterns: Mapping[str, Any] | None, site: str, default: Any) -> Any:
    # PEFT reads a pattern's key as a regular expression that must end a module path at a dot.
    for pattern, value in (patterns or {}).items():
        if len(pattern) > _PATTERN or _TOO_MUCH.search(pattern) or pattern.count("{") > 2:
            raise ValueError(f"pattern '{pattern[:40]}' is too much for a module path")
        if regex.match(rf"(.*\.)?({pattern})$", site, timeout=_PATIENCE):
            return value
    return default
