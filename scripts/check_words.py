#!/usr/bin/env python3
"""Refuse words that docs/glossary.md replaces; `scripts/check` runs it over code, help, docs and messages.

Usage: scripts/check_words.py [PATH ...]   default: all Python, Markdown and HTML files of the project but the glossary
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SEARCHED = ("autoseg", "planners", "scripts", "docs", "README.md", "CONTRIBUTING.md", "SECURITY.md")
ENDINGS = frozenset({".py", ".md", ".html", ""})
EXEMPT = frozenset({"docs/glossary.md", "scripts/check_words.py"})

BANNED_WORDS = {
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\breckon\w*": "estimate, compute",
    r"\blet(s)? go\b": "release",
    r"\bmakers?\b": "maintainer",
    r"\boftener\b": "more often",
    r"\bthat (is|are|was) (?-i:none)\b": "is not a ...",
    r"\b(is|are) there already\b": "already exists",
    r"\bto be had\b": "available",
    r"\b(ground[ _])?truth\b": "reference",
    r"(?<!'s )\bshares? of\b": "fraction of",
    r"\banew\b": "again",
    r"\b(cheap|cheaply) pass\b|\blocator\b": "coarse pass",
    r"\bconveyor\b": "pipeline",
    r"\bhimself\b": "themselves",
    r"\bstrangers?\b": "third-party",
    r"\bgo(es)? on where\b": "resume",
    r"\bcomes of\b": "results from",
    r"\bsooner\b": "faster, earlier",
    r"\bhangs on\b": "depends on",
    r"\bin the midst\b": "during",
}
"""Pattern of a word, in capitals or not, and what to say instead."""

BANNED_FORMS = {
    r"\bdef told\b|\.told\b|\btold(?= = |: \w|\.\w|\[)": "a name that says what it holds",
    r"\b_?say_\w+": "format_..., describe_...",
    r"\b_?(MOST|LARGEST|LONGEST|MAXIMUM|SMALLEST|FEWEST|LEAST|SHORTEST|MINIMUM)_[A-Z]": "MAX_..., MIN_...",
    r"\b_?[A-Z]+_SHARE\b": "..._FRACTION",
    r'"""(Of|By|As|See) ': "a full noun phrase",
    r"^\s+\w+: (Of|By|As|See) [a-z]": "a full noun phrase",
}
"""Pattern of a name or of the beginning of a docstring, and what to say instead."""


def find_banned_words(text: str) -> list[tuple[int, str, str]]:
    """Line number, word and replacement for each banned word in a text."""
    patterns = [(re.compile(word, re.IGNORECASE), replacement) for word, replacement in BANNED_WORDS.items()]
    patterns += [(re.compile(form, re.MULTILINE), replacement) for form, replacement in BANNED_FORMS.items()]
    return [
        (text.count("\n", 0, match.start()) + 1, match.group().strip(), replacement)
        for pattern, replacement in patterns
        for match in pattern.finditer(text)
    ]


def _searched_files(arguments: list[str]) -> list[Path]:
    roots = [Path(argument).resolve() for argument in arguments] or [ROOT / name for name in SEARCHED]
    paths = [path for root in roots for path in (sorted(root.rglob("*")) if root.is_dir() else [root])]
    return [
        path
        for path in paths
        if path.is_file() and path.suffix in ENDINGS and _place(path) not in EXEMPT
        if "__pycache__" not in path.parts
    ]


def _place(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def main() -> int:
    """Print every banned word; the exit code is 1 if there is any."""
    files = _searched_files(sys.argv[1:])
    found = [
        f"{_place(path)}:{line}: {word!r}: say {replacement!r}"
        for path in files
        for line, word, replacement in find_banned_words(path.read_text(encoding="utf-8"))
    ]
    print("\n".join(found) if found else f"no banned word in {len(files)} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
