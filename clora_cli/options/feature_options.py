"""Options of feature distributions (layer L1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from clora_cli.base.errors import OptionError
from clora_cli.base.intake import natural
from clora_cli.base.options import option
from clora_cli.options.shared_options import LENGTHS, ROWS, ModelOptions, seed_option
from clora_cli.store.feature_record import POOLS, SOURCES, TEXTS, Pool, Source, Text

if TYPE_CHECKING:
    from clora_cli.algebra.privacy import Guarantee

__all__ = ["SPLITS", "FeatureOptions"]

SPLITS = ("train", "dev", "test")
_LAYERS = ("middle", "last")
_MEANS = ("task", "class")


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(ModelOptions):
    """How to take feature distributions.

    References:
        Exploiting Presentative Feature Distributions for Parameter-Efficient Continual Learning of Large Language Models,
        ICML 2025, eq. 3 and 4.
        Differs: ``base`` is a function of the frozen model and the data alone, as the paper says. Its code reads features
        while it trains, from hidden states that adapters have changed, as a running mean over all steps; ``adapted`` reads
        them so, once, with the finished adapter.

        With ``encoder``: LoraRetriever, arXiv:2402.09997, and LORAUTER, arXiv:2601.21795, where embeddings of some rows of each adapter
        stand for it, and inputs find it by cosine (``clora route --similarity cosine``; all other similarities work as well).
        Differs: any model that reads texts serves, as it is, without an instruction before the inputs; embeddings are averaged as they
        are, not at norm 1, over as many rows as ``limit`` says.
    """

    data: tuple[str, ...] = option(
        (),
        "Whose inputs to read; repeatable. Each adapter's own training data by default. With several adapters, "
        "TASK= says for which.",
        flags=("-d", "--data"),
        metavar="DATA|TASK=DATA",
        completes="task",
        recipe=False,
    )
    source: Source = option(
        "base", "base: features of the frozen model; adapted: with the adapter itself at work.", choices=SOURCES
    )
    pool: Pool = option("prompt-mean", "prompt-mean over tokens, or the last token.", choices=POOLS)
    text: Text = option("prompt", "prompt: all of it; body: without instruction and cue.", choices=TEXTS)
    encoder: str = option(
        "",
        "A model whose embeddings of inputs are the features, such as a sentence encoder, instead of the base model's.",
        metavar="MODEL",
        since="0.2.0",
    )
    second_moment: Literal["none", "diag", "full"] = option(
        "none",
        "none, diag (variances) or full (covariances); mahalanobis routing needs them.",
        choices=("none", "diag", "full"),
    )
    means: str = option(
        "task",
        "task: one mean; class: one for each answer; a number: k-means; epi routing goes by the nearest.",
        metavar="task|class|NUMBER",
    )
    layer: str = option(
        "all", "all, or middle, last or blocks' numbers, joined by commas; the pass ends at the last one needed."
    )
    module: str = option("", "Ending of the sites to take, such as v_proj; all by default.")
    split: str = option("train", "train, dev or test.", choices=SPLITS)
    limit: int = option(
        0, "Rows of a task at most, drawn by the seed; 0 takes all.", flags=("-L", "--limit"), interval="[0, inf)"
    )
    max_length: int = option(512, "Tokens of an input.", interval="[1, inf)", most=LENGTHS)
    batch_size: int = option(
        32, "Inputs of one forward pass.", flags=("-b", "--batch-size"), interval="[1, inf)", most=ROWS
    )
    min_count: int = option(10, "Refuse a distribution of fewer inputs; 0 takes any.", interval="[0, inf)")
    dp_epsilon: float | None = option(
        None, "Release with differential privacy of this epsilon; needs --dp-delta.", recipe=False
    )
    dp_delta: float | None = option(None, "Its delta: far below one over the number of inputs.", recipe=False)
    dp_clip: float = option(
        1.0, "Its clipping radius, in mean distances of public texts from their centre.", recipe=False
    )
    seed: int = seed_option("Seed of the rows that --limit draws; never of privacy's noise.")

    def check(self) -> None:
        """Check what goes beyond the range of a single option.

        Raises:
            OptionError: If there is no such layer, a text encoder is to have layers, or a guarantee is incomplete, out of range
                or given for adapted features.
        """
        if self.layer != "all" and not all(
            part in _LAYERS or natural(part) is not None for part in self.layer.split(",")
        ):
            raise OptionError(
                f"--layer {self.layer}: choose all, or middle, last or blocks' numbers, joined by commas",
                code="option-choice-unknown",
            )
        if self.encoder and (self.source, self.layer, self.module) != ("base", "all", ""):
            raise OptionError(
                "--encoder gives embeddings alone, which depend on no adapter and no layer: leave out --source, --layer and --module",
                code="options-exclude-each-other",
            )
        if (self.dp_epsilon is None) != (self.dp_delta is None):
            raise OptionError("--dp-epsilon and --dp-delta go together: pass both", code="option-missing")
        if self.means not in _MEANS and not natural(self.means):
            raise OptionError(
                f"--means {self.means}: choose task, class, or a number of clusters, at least 1",
                code="option-choice-unknown",
            )
        if self.privacy is not None and self.means != "task":
            raise OptionError(
                "--dp-epsilon promises nothing for means of classes or clusters: leave out --means",
                code="options-exclude-each-other",
            )
        if self.privacy is not None and self.source == "adapted":
            raise OptionError(
                "--dp-epsilon needs --source base: adapted features depend on the data through the adapter as well",
                code="options-exclude-each-other",
            )

    @property
    def privacy(self) -> Guarantee | None:
        """The guarantee to give; None releases exact moments.

        Raises:
            OptionError: If one of its numbers is out of range.
        """
        if self.dp_epsilon is None or self.dp_delta is None:
            return None
        from clora_cli.algebra.privacy import Guarantee

        return Guarantee(self.dp_epsilon, self.dp_delta, self.dp_clip)
