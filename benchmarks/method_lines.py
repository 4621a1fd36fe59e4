"""Lines of each method's file: code alone, without docstrings, comments and blank lines; one Markdown table."""

from __future__ import annotations

import ast
import statistics
import tokenize
from pathlib import Path

import clora_cli.methods

ROOT = Path(clora_cli.methods.__file__).parent
QUIET = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def lines_of(path: Path) -> int:
    """Return the number of lines that hold code: what is on them is no comment, and no docstring."""
    documented = set[int]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            documented |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    held = set[int]()
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type not in QUIET:
                held |= set(range(token.start[0], token.end[0] + 1))
    return len(held - documented)


def main() -> None:
    """Print the table, the longest first."""
    files = {path.stem.replace("_", "-"): path for path in sorted(ROOT.glob("[!_]*.py"))}
    counts = {name: lines_of(path) for name, path in files.items()}
    print("| method | lines |\n|---|---:|")
    for name, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        print(f"| `{name}` | {count} |")
    print(f"| **median of {len(counts)}** | **{statistics.median(counts.values()):g}** |")
    shared = sorted(path.name for path in ROOT.glob("_[!_]*.py") if path.name != "_run.py")
    print(f"\nShared by several: {', '.join(f'`{name}` {lines_of(ROOT / name)}' for name in shared)}.")


if __name__ == "__main__":
    main()
