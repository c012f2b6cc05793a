"""Words that the glossary replaces are found, and the same letters in another use are left alone."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_words.py"

BANNED = {
    "mend the fields": "fix",
    "what was mended": "fix",
    "a reckoned size": "estimate, compute",
    "Reckoning before it starts": "estimate, compute",
    "the image is let go": "release",
    "ask its makers": "maintainer",
    "it fails oftener": "more often",
    "a plan that is none": "is not a ...",
    "files that are there already": "already exists",
    "a device not to be had": "available",
    "the truth": "reference",
    "Ground truth of a case": "reference",
    "truth = labels[box]": "reference",
    "share of the voxels": "fraction of",
    "Shares of the image": "fraction of",
    "read anew": "again",
    "the cheap pass": "coarse pass",
    "locator = members[0]": "coarse pass",
    "a conveyor": "pipeline",
    "the user himself": "themselves",
    "a stranger's planner": "third-party",
    "goes on where it was": "resume",
    "what comes of it": "results from",
    "read sooner": "faster, earlier",
    "it hangs on the patch": "depends on",
    "in the midst of an epoch": "during",
    "def told(self) -> str:": "a name that says what it holds",
    "told = warnings[0]": "a name that says what it holds",
    "told.append(line)": "a name that says what it holds",
    "say_figure(3)": "format_..., describe_...",
    "def _say_it(text):": "format_..., describe_...",
    "MOST_CASES = 3": "MAX_..., MIN_...",
    "_SMALLEST_PATCH = 8": "MAX_..., MIN_...",
    "TEST_SHARE = 0.2": "..._FRACTION",
    '"""Of the image, in mm."""': "a full noun phrase",
    "        spacing: Of the image, in mm.": "a full noun phrase",
    "    overwrite: As for `write`.": "a full noun phrase",
}

ALLOWED = [
    "amended, recommended",
    "let it go",
    "to make, a made plan",
    "nothing, when there is none",
    "if cell.order is none",
    "the value is None",
    "the values that are None",
    "touching objects are told apart",
    "each process gets a process's share of the batch",
    "memory that programs share",
    "true labels, truthy values",
    "essay_length, to say it",
    "at most 3 cases",
    "ALMOST_DONE = True",
    'r"""Everything of a case."""',
    'names = {"first": "Of"}',
    "colour: Of course in prose at the margin",
    "strange values, the conveyed file",
]


def check(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True, check=False)


def test_every_banned_word_is_found_with_its_replacement(tmp_path):
    path = tmp_path / "words.py"
    path.write_text("\n".join(BANNED))
    result = check(path)
    assert result.returncode == 1
    found = dict(line.removeprefix(f"{path}:").split(":", 1) for line in result.stdout.splitlines())
    assert sorted(map(int, found)) == list(range(1, len(BANNED) + 1))
    for number, replacement in enumerate(BANNED.values(), start=1):
        assert found[str(number)].endswith(f"say {replacement!r}")


@pytest.mark.parametrize("ending", [".py", ".md", ".html"])
def test_allowed_uses_are_left_alone(tmp_path, ending):
    path = tmp_path / f"words{ending}"
    path.write_text("\n".join(ALLOWED))
    result = check(path)
    assert result.returncode == 0, result.stdout
    assert result.stdout == "no banned word in 1 files\n"


def test_other_endings_are_not_searched(tmp_path):
    (tmp_path / "words.json").write_text('"reckoned"')
    assert check(tmp_path).returncode == 0
