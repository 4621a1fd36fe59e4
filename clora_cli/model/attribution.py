"""Which feed-forward neurons lead a model to the right answers (layer L1): integrated gradients of knowledge neurons.

A knowledge neuron is an entry of the input of a block's down projection: ``FFN(h) = neurons W2`` with
``neurons = act(h W1)``, or the gated product in models that have one. Its attribution is
``n / m * sum_{k=1..m} dP(k/m n) / dn``, summed over token positions, where P is the probability of the right answer.

The ``m`` scaled copies run as one batch, and gradients are taken with respect to the neurons alone. Below the layer that
is scaled all copies are the same: the blocks there run once, on the rows themselves, and their outputs are repeated.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clora_cli.base.errors import MismatchError, OptionError
from clora_cli.data.tokens import IGNORED
from clora_cli.model.head_layers import output_of
from clora_cli.model.linear_layers import linear_shape
from clora_cli.model.output_layer import logits_at, output_only_at

__all__ = ["Answer", "attributions", "down_projections", "spearman"]

Answer = Literal["probability", "log-probability"]

# Endings of the down projections' paths in the model families; attention has output layers of some of these names.
_ENDINGS = ("down_proj", "wo", "mlp.c_proj", "output.dense", "fc2", "ffn.lin2", "dense_4h_to_h", "fc_out", "w2")
_ATTENTION = ("attn", "attention")
_BASE = ".base_layer"  # where PEFT puts a layer that it wraps


def down_projections(model: nn.Module) -> dict[str, int]:
    """Find the layers whose inputs are the knowledge neurons.

    Returns:
        Path to number of neurons, in the model's order.

    Raises:
        OptionError: If the model has no feed-forward layer of a known name.
    """
    linear = {n.removesuffix(_BASE): shape for n, m in model.named_modules() if (shape := linear_shape(m)) is not None}
    named = [name for name in linear if f".{name}".endswith(tuple(f".{ending}" for ending in _ENDINGS))]
    outputs = {name: linear[name][1] for name in named if not any(word in name.lower() for word in _ATTENTION)}
    if not outputs:
        raise OptionError(
            f"attribution finds no feed-forward output layer in {type(model).__name__}: "
            f"none of its linear layers ends with {', '.join(_ENDINGS)}",
            code="no-feed-forward-layer",
        )
    return outputs


def attributions(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    labels: Tensor,
    layers: Collection[str],
    *,
    steps: int = 20,
    together: bool = False,
    answer: Answer = "probability",
    at_once: int = 0,
) -> Tensor:
    """Return every knowledge neuron's attribution to the right answers, the mean over rows.

    No gradient reaches the model's parameters if they require none; switch that off on those that do.

    Args:
        model: A language model in evaluation mode.
        inputs: Its arguments, each of shape (row, ...), without labels; an encoder-decoder's with ``decoder_input_ids``.
        labels: The right answers, shape (row, token), -100 where there is none; a causal model's beside its tokens.
        layers: From ``down_projections``.
        steps: Points of the integral (the paper's m), at least 1; a right Riemann sum.
        together: Scale all layers at once, for one backward pass in all, instead of one layer after the other.
        answer: What is attributed: the product of the answer tokens' probabilities, or its logarithm, which does not
            vanish for long answers.
        at_once: Scaled copies of one batch; 0 for all ``steps``.

    Returns:
        Shape (neuron,), float32: all layers' neurons, one after the other.

    Raises:
        MismatchError: If a layer does not run exactly once in a forward pass.
    """
    seen = _observe(model, inputs, layers)
    shift = "decoder_input_ids" not in inputs and output_of(model) is None
    keep = labels[:, int(shift) :].ne(IGNORED).any(dim=0).nonzero().flatten()
    task = _Task(model, inputs, labels, keep, shift, answer)
    scores: dict[str, Tensor] = {}
    for group in [list(layers)] if together else [[layer] for layer in layers]:
        sums = {layer: torch.zeros_like(seen.of(layer)) for layer in group}
        points = torch.arange(1, steps + 1, device=labels.device) / steps
        for scales in torch.tensor_split(points, -(-steps // (at_once or steps))):
            known = {} if together else seen.before(group[0])
            leaves = {layer: _scaled(seen.neurons[layer], scales) for layer in group}
            with _entering(model, leaves), _replayed(model, known, len(labels), len(scales)):
                _add_slopes(sums, leaves, task, len(scales))
        for layer, total in sums.items():
            scores[layer] = (total * seen.of(layer)).sum(dim=(0, 1)) / (steps * len(labels))
    return torch.cat([scores[layer] for layer in layers]).float()


def spearman(one: Tensor, other: Tensor) -> float:
    """Return Spearman's rank correlation of two vectors, in [-1, 1]; equal entries share the mean of their ranks.

    Where it is not defined, because all entries of a vector are equal or one is no number, it is 0.
    """
    if not bool(one.isfinite().all() and other.isfinite().all()):
        return 0.0
    first, second = (ranks - ranks.mean() for ranks in (_ranks(one), _ranks(other)))
    scale = (first.square().sum() * second.square().sum()).sqrt()
    return float((first @ second / scale).clamp(-1, 1)) if bool(scale > 0) else 0.0


def _ranks(values: Tensor) -> Tensor:
    ordered, order = values.sort()
    # The run of equal entries that each belongs to, from its first rank to its last, both from 1.
    last = torch.searchsorted(ordered, ordered, right=True)
    first = torch.searchsorted(ordered, ordered) + 1
    return torch.empty_like(values, dtype=torch.float64).scatter_(0, order, (first + last).double() / 2)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a plain forward pass recorded.

    Attributes:
        rows: Number of rows.
        neurons: Layer to its input, shape (row, token, neuron), or (row * token, neuron) in some models.
        blocks: Layer to the member of a module list that holds it.
        outputs: Block to its output, in the order in which they ended; None where it cannot replace another pass's.
    """

    rows: int
    neurons: dict[str, Tensor] = field(default_factory=dict)
    blocks: dict[str, str | None] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)

    def of(self, layer: str) -> Tensor:
        """Return a layer's neurons, shape (row, token, neuron), in float32 or better."""
        neurons = _wide(self.neurons[layer])
        return neurons.reshape(self.rows, -1, neurons.shape[-1])

    def before(self, layer: str) -> dict[str, Any]:
        """Return the outputs of the blocks that had ended before a layer's own block."""
        own = self.blocks[layer]
        if own not in self.outputs:
            return {}
        ended = itertools.takewhile(lambda entry: entry[0] != own, self.outputs.items())
        return {block: output for block, output in ended if output is not None}


def _observe(model: nn.Module, inputs: Mapping[str, Tensor], layers: Collection[str]) -> _Seen:
    seen = _Seen(len(next(iter(inputs.values()))), blocks={layer: _block(model, layer) for layer in layers})
    calls = Counter[str]()

    def enter(layer: str, given: tuple[Any, ...]) -> None:
        calls[layer] += 1
        seen.neurons[layer] = given[0].detach()

    def end(block: str, output: Any) -> None:
        usable = block not in seen.outputs and _repeatable(output, seen.rows)
        seen.outputs[block] = output if usable else None

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            module = model.get_submodule(layer)
            handle = module.register_forward_pre_hook(lambda _, given, layer=layer: enter(layer, given))
            hooks.callback(handle.remove)
        for block in dict.fromkeys(block for block in seen.blocks.values() if block):
            module = model.get_submodule(block)
            after = module.register_forward_hook(lambda _, given, output, block=block: end(block, output))
            hooks.callback(after.remove)
        model(**inputs, use_cache=False)
    if odd := next((layer for layer in layers if calls[layer] != 1), None):
        raise MismatchError(
            f"attribution needs layers that run once in a forward pass; '{odd}' of this model runs {calls[odd]} times",
            code="layer-runs-several-times",
        )
    return seen


def _block(model: nn.Module, layer: str) -> str | None:
    """Return the outermost member of a module list that a layer is part of."""
    parts = layer.split(".")
    for depth in range(1, len(parts)):
        if isinstance(model.get_submodule(".".join(parts[:depth])), nn.ModuleList):
            return ".".join(parts[: depth + 1])
    return None


def _repeatable(output: Any, rows: int) -> bool:
    if isinstance(output, Tensor):
        return output.ndim > 0 and output.shape[0] in (1, rows)
    return isinstance(output, tuple) and all(part is None or _repeatable(part, rows) for part in output)


def _repeat(output: Any, rows: int, copies: int) -> Any:
    if isinstance(output, tuple):
        return tuple(_repeat(part, rows, copies) for part in output)
    # What has one entry for all rows, such as a position bias, is broadcast over all copies as well.
    return output.repeat(copies, *[1] * (output.ndim - 1)) if output is not None and len(output) == rows else output


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _scaled(neurons: Tensor, scales: Tensor) -> Tensor:
    """Return scaled copies of a layer's neurons, one copy of all rows after the other, as a leaf."""
    copies = scales.view(-1, *[1] * neurons.ndim) * _wide(neurons)
    return copies.flatten(0, 1).to(neurons.dtype).requires_grad_()


@contextlib.contextmanager
def _entering(model: nn.Module, leaves: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace the inputs of layers."""
    with contextlib.ExitStack() as hooks:
        for layer, leaf in leaves.items():
            module = model.get_submodule(layer)
            handle = module.register_forward_pre_hook(lambda _, given, leaf=leaf: (leaf, *given[1:]))
            hooks.callback(handle.remove)
        yield


@contextlib.contextmanager
def _replayed(model: nn.Module, outputs: Mapping[str, Any], rows: int, copies: int) -> Iterator[None]:
    """Replay the blocks' earlier outputs, once for each copy, instead of running them."""
    with contextlib.ExitStack() as restored:
        for block, output in outputs.items():
            own = vars(model.get_submodule(block))
            if "forward" in own:  # another library has put its own there
                restored.callback(own.__setitem__, "forward", own["forward"])
            else:
                restored.callback(own.pop, "forward")
            own["forward"] = lambda *_, output=output, **__: _repeat(output, rows, copies)
        yield


@dataclass(frozen=True, eq=False)
class _Task:
    """A batch with its answers.

    Attributes:
        keep: Positions whose logits are needed.
        shift: Whether logits at a position predict the next label (causal) or their own (encoder-decoder, encoder).
    """

    model: nn.Module
    inputs: Mapping[str, Tensor]
    labels: Tensor
    keep: Tensor
    shift: bool
    answer: Answer

    def log_probabilities(self, copies: int) -> Tensor:
        """Return the answers' log-probabilities with every row repeated, shape (copy * row,)."""
        inputs = {name: _repeat(tensor, len(self.labels), copies) for name, tensor in self.inputs.items()}
        wanted = torch.zeros_like(self.labels, dtype=torch.bool).index_fill_(1, self.keep, True)
        wanted = wanted.repeat(copies, 1)
        with output_only_at(self.model, wanted):
            logits = self.model(**inputs, use_cache=False)["logits"]
        logits = logits_at(logits, wanted).reshape(len(wanted), len(self.keep), -1)
        targets = _repeat(self.labels[:, self.keep + int(self.shift)], len(self.labels), copies)
        tokens = _wide(logits).log_softmax(dim=-1).gather(-1, targets.clamp_min(0)[..., None])[..., 0]
        return tokens.masked_fill(targets == IGNORED, 0).sum(dim=-1)


def _add_slopes(sums: dict[str, Tensor], leaves: Mapping[str, Tensor], task: _Task, copies: int) -> None:
    """Add dP/dn at every copy, summed over copies."""
    with torch.enable_grad():
        logs = task.log_probabilities(copies)
        slopes = torch.autograd.grad(logs.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    # dP = P d(log P), copy by copy: in half precision the gradient of a small probability would be lost on its way.
    weights = logs.detach().exp() if task.answer == "probability" else torch.ones_like(logs)
    for layer, slope in zip(leaves, slopes, strict=True):
        apart = _wide(slope).reshape(copies, *sums[layer].shape)
        sums[layer] += (apart * weights.view(copies, -1, 1, 1)).sum(dim=0)
