"""What the checks found: one line as soon as a check is done, a JSON file that is always complete, and a table."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from autoseg.records.files import write_text

RESULTS_NAME = "gpu_check.json"


@dataclass(frozen=True)
class Finding:
    """One figure or fact, and the aim that it has to reach."""

    name: str
    value: float | int | str | bool
    unit: str = ""
    aim: str = ""
    """What the value should be, in words; empty: it is only shown."""
    is_reached: bool | None = None
    """None: there is no aim."""

    def describe(self) -> str:
        """Name, value and aim in one line."""
        verdict = "" if self.is_reached is None else f" ({'reached' if self.is_reached else 'MISSED'}: {self.aim})"
        return f"{self.name}: {self.value_text()}{verdict}"

    def value_text(self) -> str:
        """The value with its unit."""
        text = f"{self.value:.4g}" if isinstance(self.value, float) else str(self.value)
        return f"{text} {self.unit}".strip()


Findings = list[Finding]


def at_most(name: str, value: float, limit: float, unit: str = "") -> Finding:
    """A figure that should not be larger than a limit."""
    return Finding(name, value, unit, f"at most {limit:g} {unit}".strip(), value <= limit)


def at_least(name: str, value: float, limit: float, unit: str = "") -> Finding:
    """A figure that should not be smaller than a limit."""
    return Finding(name, value, unit, f"at least {limit:g} {unit}".strip(), value >= limit)


def must_be(name: str, *, is_so: bool, aim: str, value: str = "") -> Finding:
    """A fact that should hold."""
    return Finding(name, value or ("yes" if is_so else "no"), aim=aim, is_reached=is_so)


class SkippedError(Exception):
    """A check that cannot be made here; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of one check."""

    check: str
    question: str
    """What it answers."""
    seconds: float = 0.0
    findings: Findings = field(default_factory=list)
    skipped: str = ""
    """Why it was not made; empty: it was."""
    error: str = ""
    """What it raised, with the innermost lines; empty: nothing."""

    def has_failed(self) -> bool:
        """Whether it raised, or an aim was missed."""
        return bool(self.error) or any(finding.is_reached is False for finding in self.findings)

    def describe(self) -> str:
        """One line with everything that was found."""
        if self.skipped:
            return f"{self.check}: skipped: {self.skipped}"
        if self.error:
            return f"{self.check}: FAILED after {self.seconds:.1f} s: {self.error.splitlines()[0]}"
        found = "; ".join(finding.describe() for finding in self.findings)
        return f"{self.check} ({self.seconds:.1f} s): {found or 'nothing to report'}"


def write_results(outcomes: list[Outcome], settings: dict[str, str], folder: Path) -> None:
    """Write all outcomes so far; the file is replaced as a whole, so that it is complete whenever the run ends."""
    content = {"settings": settings, "checks": [asdict(outcome) for outcome in outcomes]}
    write_text(json.dumps(_without_infinities(content), indent=1) + "\n", folder / RESULTS_NAME)


def _without_infinities(value: object) -> object:
    """JSON has no NaN and no infinity; they become text."""
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinities(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def print_table(outcomes: list[Outcome]) -> None:
    """Every finding in a row; what missed its aim is marked."""
    table = Table("check", "finding", "value", "aim", "")
    for outcome in outcomes:
        if outcome.skipped or outcome.error:
            first_line = (outcome.skipped or outcome.error).splitlines()[0]
            table.add_row(outcome.check, "", first_line, "", "skipped" if outcome.skipped else "FAILED")
        for finding in outcome.findings:
            mark = {None: "", True: "reached", False: "MISSED"}[finding.is_reached]
            table.add_row(outcome.check, finding.name, finding.value_text(), finding.aim, mark)
    Console(width=150).print(table)
