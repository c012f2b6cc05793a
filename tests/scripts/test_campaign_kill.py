"""A few rounds of the kill campaign; the long one is run by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "campaign_kill.py"


@pytest.mark.slow
def test_a_few_disturbed_commands_leave_what_undisturbed_ones_leave(tmp_path):
    words = ["--rounds", "1", "--commands", "plan", "import-nnunet", "--folder", str(tmp_path)]
    command = [sys.executable, str(SCRIPT), *words, "--signals", "SIGKILL", "SIGTERM"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parents[1])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "disturbed runs, 0 faults" in result.stdout
