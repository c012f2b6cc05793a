"""The project's documents, and what is quoted in them: code blocks, code spans, links, commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"autoseg(-plan|-train|-predict)?( |$)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    language: str
    text: str


def name_of(document: Path) -> str:
    """Path of a document relative to the project, as the name of a test."""
    return document.relative_to(ROOT).as_posix()


def read(document: Path) -> str:
    """Text of a document."""
    return document.read_text(encoding="utf-8")


def code_blocks(text: str) -> list[Block]:
    """Fenced blocks in order."""
    return [Block(language, body) for language, body in FENCE.findall(text)]


def prose(text: str) -> str:
    """Text without its fenced blocks."""
    return FENCE.sub("", text)


def code_spans(text: str) -> list[str]:
    """What stands in backticks outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def commands(text: str) -> list[list[str]]:
    """Words of every autoseg command line in blocks without language and in code spans.

    Comments, and a file that the output goes to, are left out.
    """
    lines = [line for block in code_blocks(text) if not block.language for line in block.text.splitlines()]
    return [
        shlex.split(line.partition(" > ")[0], comments=True)
        for line in [*lines, *code_spans(text)]
        if COMMAND.match(line)
    ]


def headings(text: str) -> Iterator[str]:
    """Anchors of all headings, as GitHub makes them."""
    for line in prose(text).splitlines():
        if match := re.match(r"#+ (.*)", line):
            yield re.sub(r"[^\w\- ]", "", match[1].lower()).replace(" ", "-")
