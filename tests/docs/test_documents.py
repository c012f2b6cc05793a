"""Documents agree with the program: commands parse, options are complete, links and paths exist, words are ours."""

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.cli.main import COMMANDS, main
from autoseg.plugins import GROUP
from tests.docs.documents import DOCUMENTS, ROOT, code_spans, commands, headings, name_of, prose, read

MAX_README_LINES = 130
MAX_COLUMNS = 120

USAGE = ROOT / "docs" / "usage.md"

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


@pytest.fixture
def parsed(monkeypatch) -> list[argparse.Namespace]:
    """What every command was asked to do; nothing runs."""
    asked: list[argparse.Namespace] = []

    def note(namespace: argparse.Namespace) -> int:
        asked.append(namespace)
        return 0

    for command in COMMANDS:
        module = importlib.import_module(f"autoseg.cli.{command.replace('-', '_')}")
        monkeypatch.setattr(module, "run", note)
    return asked


def as_arguments(words: list[str]) -> list[str]:
    """`autoseg-plan X` and `autoseg plan X` are the same."""
    program, *rest = words
    short = program.removeprefix("autoseg").removeprefix("-")
    return [short, *rest] if short else rest


def test_the_documents_are_found():
    names = {name_of(document) for document in DOCUMENTS}
    assert {"README.md", "CHANGELOG.md", "docs/usage.md", "docs/glossary.md"} <= names
    assert sum(len(commands(read(document))) for document in DOCUMENTS) > 50


@every_document
def test_every_command_line_parses(document, parsed):
    for words in commands(read(document)):
        arguments = as_arguments(words)
        if len(arguments) <= 1 and "=" not in arguments:  # a command that is only named
            assert not arguments or arguments[0] in (*COMMANDS, "--help", "--version", "COMMAND"), words
            continue
        assert main(arguments) == 0, words
        assert parsed.pop().command == arguments[0]


@every_document
def test_every_option_exists(document):
    known = all_options()
    for span in code_spans(read(document)):
        if re.match(r"(--?[a-z]|autoseg)", span) and not is_of_another_program(document, span):
            for option in re.findall(r"(?<!\S)--[a-z][\w-]*", span):
                assert option in known, span


def all_options() -> set[str]:
    """Option strings of every command."""
    found = {"--version"}
    for command in COMMANDS:
        found |= set(options_of(command))
    return found


def options_of(command: str) -> list[str]:
    """Option strings of one command, from its own parser."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"autoseg.cli.{command.replace('-', '_')}").add_arguments(parser)
    return list(re.findall(r"(?<![\w-])--[a-z][\w-]*", parser.format_help()))


def is_of_another_program(document: Path, span: str) -> bool:
    """nnU-Net's own options stand in its users' page; contributors use those of pytest and git."""
    return name_of(document) in ("docs/nnunet.md", "CONTRIBUTING.md") and not span.startswith("autoseg")


@pytest.mark.parametrize("command", COMMANDS)
def test_usage_documents_every_option(command):
    text = read(USAGE)
    start = text.index(f"\n## autoseg {command}\n")
    section = text[start : text.find("\n## ", start + 1)]
    shared = text[: text.index("\n## Datasets")]
    if command == "run":  # takes the options of plan and of select, and says so
        section += text[text.index("\n## autoseg plan\n") : text.index("\n## autoseg train\n")]
        section += text[text.index("\n## autoseg select\n") : text.index("\n## autoseg report\n")]
    missing = [option for option in set(options_of(command)) - {"--help"} if f"`{option}" not in section + shared]
    assert not missing


@every_document
def test_every_link_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(document))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        assert not anchor or anchor in headings(read(linked)), target


@every_document
def test_every_path_in_backticks_exists(document):
    for span in code_spans(read(document)):
        if re.fullmatch(r"(autoseg|planners|tests|scripts|docs|\.ci)/[\w./*-]*", span):
            assert list(ROOT.glob(span.rstrip("/"))), span
        elif re.fullmatch(r"(autoseg|planners)(\.\w+)+", span) and span != GROUP:
            assert is_importable(span), span


def is_importable(dotted: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for name in parts[split:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


@every_document
def test_lines_are_short(document):
    long = [line for line in read(document).splitlines() if len(line) > MAX_COLUMNS and not line.startswith("|")]
    assert not long


def test_the_readme_is_one_screen_or_two():
    assert len(read(ROOT / "README.md").splitlines()) <= MAX_README_LINES


def test_words_are_those_of_the_glossary():
    command = [sys.executable, str(ROOT / "scripts" / "check_words.py"), *map(str, DOCUMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "no banned word in" in done.stdout
