"""The claims of five papers beside what finished runs show, as tables in docs/claims.md.

``claims.yaml`` has the claims; ``claim_measures`` takes the measures; ``claim_page`` reads and fills the page, which keeps its own
text: what lies between its ``filled`` and ``end`` comments is written anew. What the runs do not hold is *not measured*, unless
the page's rows are to be kept: then what it has of more seeds, or of runs that are not at hand, stands. Runs that were scored on
dev rows are no evidence and refused.

The verdict of a number that the paper prints: it *shows* where the interval lies wholly on the paper's side of no effect and the
estimate is at least half as large as the paper's (ratios: their logarithms), *shows, but smaller* where it is less, and *does not
show* otherwise. A bound shows where the interval lies wholly within it. What does not show is *open* where the interval holds
what the paper says as well: more rows could show it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from claim_evidence import Evidence
from claim_measures import KINDS, Measured
from claim_page import fill, rows_of, seeds_of

from clora_cli.reporting.collect import Material, collect
from clora_cli.reporting.run_folders import RunFolder

CLAIMS = Path(__file__).with_name("claims.yaml")
PAGE = Path(__file__).parents[1] / "docs" / "claims.md"
SHOWS, SMALLER, NOT, UNMEASURED, UNTESTABLE = VERDICTS = (
    "shows",
    "shows, but smaller",
    "does not show",
    "not measured",
    "cannot be tested here",
)
OPEN = "open"
_OF_CLAIMS = ("claim", "where", "the paper", "here", "verdict", "measure")
_OF_RUNS = ("tasks", "run", "seeds", "rows a training", "test rows", "numbers", "hours")
_SHORT = {
    "average-performance": "AP",
    "forgetting-rate": "F.Ra",
    "forward-transfer": "FWT",
    "order-spread": "AP's spread",
}
# What a further evaluation keeps of a run's own: the entry of its scores, and the option.
_KEPT = {"max_length": "--max-length", "max_new_tokens": "--max-new-tokens", "dtype": "--dtype", "test_rows": "-L"}


def measure(claim: Mapping[str, Any], evidence: Evidence | None) -> Measured | None:
    """Return what was measured of a claim, by its kind or by hand; None if nothing was."""
    if recorded := claim.get("recorded"):
        return Measured(*map(float, recorded), math.nan, 1, "points")
    if evidence is None or "here" not in claim:
        return None
    here = claim["here"]
    return KINDS[next(iter(here))](evidence, here, claim.get("tasks", 0))


def verdict(claim: Mapping[str, Any], measured: Measured | None) -> str:
    """Judge a claim by the rule of this file's docstring."""
    if "reason" in claim:
        return UNTESTABLE
    if measured is None:
        return UNMEASURED
    claimed = claim["claimed"]
    if isinstance(claimed, str):
        side, bound = claimed.split()
        return SHOWS if (measured.low > float(bound) if side == ">" else measured.high < float(bound)) else NOT
    scale = math.log if measured.unit == "times" else float
    value, low, high, paper = (scale(number) for number in (measured.value, measured.low, measured.high, claimed))
    if not (low > 0 if paper > 0 else high < 0):
        return NOT
    return SHOWS if abs(value) >= abs(paper) / 2 else SMALLER


def is_open(claim: Mapping[str, Any], measured: Measured | None) -> bool:
    """Tell whether what does not show is not contradicted either: the interval holds the paper's number, or reaches into its bound."""
    if measured is None or verdict(claim, measured) != NOT:
        return False
    claimed = claim["claimed"]
    return measured.low < float(claimed.split()[1] if isinstance(claimed, str) else claimed) < measured.high


def tell(claim: Mapping[str, Any], measured: Measured | None) -> str:
    """Return what was measured, as text: estimate, interval, deviation over seeds."""
    if "reason" in claim:
        return str(claim["reason"])
    if measured is None:
        return UNMEASURED
    sign = "+" if measured.unit == "points" else ""
    digits = "g" if measured.unit == "times" else "f"
    places = ".3" if digits == "g" else ".2" if not measured.unit else ".1"
    numbers = [format(number, f"{sign}{places}{digits}") for number in (measured.value, measured.low, measured.high)]
    text = f"{numbers[0]} [{numbers[1]}, {numbers[2]}]" if measured.low < measured.high else numbers[0]
    spread = "" if math.isnan(measured.deviation) else f" ± {measured.deviation:{places}{digits}}"
    return f"{text}{spread}{f', {measured.seeds} seeds' if measured.seeds > 1 else ''}"


def taken(claim: Mapping[str, Any]) -> str:
    """Return what is measured, in words."""
    if "here" not in claim:
        return f"`{claim['by']}`" if "by" in claim else ""
    here = claim["here"]
    kind, what = next(iter(here.items()))
    if kind == "correlation":
        return f"{' ~ '.join(_SHORT.get(thing, thing) for thing in what)} over {', '.join(f'`{name}`' for name in here['over'])}"
    sides = [f"`{here[side]}`" for side in ("of", "against") if side in here]
    joint = {"gap": " - ", "kinship": ""}.get(kind, " / ")
    name = {"growth": f"growth of {what}", "part": f"{what} part, %", "kinship": "within - across families"}.get(
        kind, what
    )
    return f"{_SHORT.get(name, name)}: {joint.join(sides)}"


@dataclass(frozen=True)
class Judged:
    """What a row of the page says of a claim."""

    told: str
    verdict: str
    is_open: bool

    @property
    def word(self) -> str:
        """The verdict as the page has it."""
        return f"{self.verdict}; {OPEN}" if self.is_open else self.verdict


def judge(claim: Mapping[str, Any], evidence: Evidence | None, earlier: Mapping[tuple[str, ...], Judged]) -> Judged:
    """Return what is said of a claim: what the runs show, or what an earlier row says that has more seeds."""
    measured = measure(claim, evidence)
    found = Judged(tell(claim, measured), verdict(claim, measured), is_open(claim, measured))
    known = earlier.get((claim["claim"], claim["place"]), found)
    if {known.verdict, found.verdict} & {UNTESTABLE} or known.verdict == UNMEASURED:
        return found
    return known if measured is None or seeds_of(known.told) > seeds_of(found.told) else found


def judged_on(page: str) -> dict[tuple[str, ...], Judged]:
    """Return what a page's rows say, by claim and place."""
    rows = (row for row in rows_of(page, "claims") if len(row) == len(_OF_CLAIMS))
    parted = {row[:2]: (row[3], *row[4].partition("; ")) for row in rows}
    return {key: Judged(told, word, bool(rest)) for key, (told, word, _, rest) in parted.items()}


def tables(
    papers: Sequence[Mapping[str, Any]], evidence: Evidence | None, earlier: Mapping[tuple[str, ...], Judged]
) -> Iterator[str]:
    """Yield the lines of a count of verdicts, and a table of each paper."""
    judged = {
        paper["name"]: [(claim, judge(claim, evidence, earlier)) for claim in paper["claims"]] for paper in papers
    }
    words = (*VERDICTS[:3], f"of these {OPEN}", *VERDICTS[3:])
    yield from ("", f"| paper | claims | {' | '.join(words)} |", f"|---|---:|{'---:|' * len(words)}")
    for name, rows in judged.items():
        counts = Counter(found.verdict for _, found in rows)
        counts[f"of these {OPEN}"] = sum(found.is_open for _, found in rows)
        yield f"| [{name}](#{name.lower()}) | {len(rows)} | {' | '.join(str(counts[word]) for word in words)} |"
    for paper in papers:
        yield from ("", f"### {paper['name']}", "", f"*{paper['title']}*", "")
        yield from (f"| {' | '.join(_OF_CLAIMS)} |", f"|{'---|' * len(_OF_CLAIMS)}")
        for claim, found in judged[paper["name"]]:
            cells = (claim["claim"], claim["place"], claim["figure"], found.told, found.word, taken(claim))
            yield f"| {' | '.join(cells)} |"


def runs(evidence: Evidence | None, earlier: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a table of the runs that were read, and of earlier ones that have more seeds or are not at hand."""
    yield from ("", f"| {' | '.join(_OF_RUNS)} |", "|---|---|---|---:|---:|---|---:|")
    series = [] if evidence is None else [one for one in evidence.series if one.runs[0].folder.name]
    rows = {row[:2]: row for row in earlier}
    for one in series:
        first = one.runs[0]
        trained = {part["rows"] for run in one.runs for part in run.protocol.values() if "rows" in part}
        cells = (", ".join(one.order.tasks), one.label, ", ".join(str(run.seed) for run in one.runs), _listed(trained))
        hours = sum(_seconds(evidence.material, run.folder) for run in one.runs) / 3600
        settings = (str(first.settings.get("test_rows") or "all"), str(first.settings.get("dtype", "float32")))
        known = rows.get(cells[:2], ("", "", ""))
        if known[2].count(",") <= cells[2].count(","):
            rows[cells[:2]] = (*cells, *settings, f"{hours:.1f}")
    yield from (f"| {' | '.join(row)} |" for row in rows.values())
    if not rows:
        yield f"| {UNMEASURED} |{' |' * (len(_OF_RUNS) - 1)}"


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _seconds(material: Material, folder: RunFolder) -> float:
    costs = [
        cost for path, costs in material.costs.items() if str(path.resolve().parent) == folder.root for cost in costs
    ]
    return sum(cost.seconds for cost in costs if (cost.method, cost.seed) == (folder.name, folder.seed))


def missing(papers: Sequence[Mapping[str, Any]], evaluations: Mapping[str, str], evidence: Evidence) -> Iterator[str]:
    """Yield the commands that evaluate finished runs as claims ask for and the runs do not hold; what has no run, in comments."""
    absent: dict[str, None] = {}
    for label, evaluation, tasks in dict.fromkeys(_wanted(papers)):
        found = [run for _, run in evidence.runs(label, tasks)]
        if not found:
            absent[f"# no finished run: {label}{f', {tasks} tasks' if tasks else ''}"] = None
        for run in found if evaluation else ():
            folder = Path(run.folder.root, run.folder.name, f"seed-{run.seed}")
            if not (folder / f"{evaluation}.json").exists():
                same = " ".join(f"{flag} {run.settings[key]}" for key, flag in _KEPT.items() if key in run.settings)
                yield f"clora eval {folder}/adapters {evaluations[evaluation]} {same} -o {folder}/{evaluation}.json"
    yield from absent


def _wanted(papers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, int]]:
    """Yield the label, the evaluation and the number of tasks of each side of each claim."""
    for claim in (claim for paper in papers for claim in paper["claims"] if "here" in claim):
        here = claim["here"]
        for name in (*(here[side] for side in ("of", "against") if side in here), *here.get("over", ())):
            label, _, evaluation = name.partition(":")
            yield label, "unseen" if here.get("gap") == "unseen" else evaluation, claim.get("tasks", 0)


def read(folders: Sequence[Path], draws: int, sample_rows: int) -> Evidence | None:
    """Read run folders; None if there are none.

    Raises:
        SystemExit: If scores are of dev rows, or two folders have one run: of a method, a seed and an order.
    """
    if not folders:
        return None
    material: Material = collect(folders)
    for file in material.scores:
        if file.settings.get("split") == "dev":
            raise SystemExit(f"{file.source} was scored on dev rows, which chose the settings; leave it out")
    evidence = Evidence(material, draws=draws, sample_rows=sample_rows)
    _refuse_two_of_one(evidence)
    return evidence


def _refuse_two_of_one(evidence: Evidence) -> None:
    found: dict[tuple[str, int | None, tuple[str, ...]], RunFolder] = {}
    for series in evidence.series:
        for run in series.runs:
            known = found.setdefault((run.folder.name or run.method, run.seed, series.order.tasks), run.folder)
            if known.root != run.folder.root:
                raise SystemExit(
                    f"{known.root} and {run.folder.root} both have {known.name} with seed {run.seed}; leave one out"
                )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the page, or print what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "runs", nargs="*", type=Path, help="folders that clora run wrote; none for a page without figures"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to fill (docs/claims.md)")
    parser.add_argument(
        "--missing", action="store_true", help="print the evaluations that claims still need, as commands"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep what the page has of more seeds or of runs that are not named"
    )
    parser.add_argument("--draws", type=int, default=2000, help="how many times test rows are drawn (2000)")
    parser.add_argument(
        "--sample-rows", type=int, default=0, help="rows of each layer to count collisions in; 0 for all"
    )
    options = parser.parse_args(arguments)
    content = yaml.safe_load(CLAIMS.read_text(encoding="utf-8"))
    evidence = read(options.runs, options.draws, options.sample_rows)
    if options.missing:
        if evidence is None:
            parser.error("name the folders of finished runs")
        print(*missing(content["papers"], content["evaluations"], evidence), sep="\n")
        return
    page = options.page.read_text(encoding="utf-8")
    kept = page if options.keep else ""
    parts = {
        "runs": runs(evidence, list(rows_of(kept, "runs"))),
        "claims": tables(content["papers"], evidence, judged_on(kept)),
    }
    options.page.write_text(fill(page, parts), encoding="utf-8")
    print(options.page, file=sys.stderr)


if __name__ == "__main__":
    main()
