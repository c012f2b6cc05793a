"""autoseg neither imports nor calls what only Unix has: every module, and a small run from planning to prediction."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import foreign_system

SCRIPT = Path(foreign_system.__file__)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_everything_is_imported_and_a_small_run_succeeds(platform, tmp_path):
    result = run_python(str(SCRIPT), platform, str(tmp_path))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("import resource", "import of resource halted"),
        ("import os; os.sched_getaffinity(0)", "module 'os' has no attribute 'sched_getaffinity'"),
        ("import signal; signal.SIGKILL", "module 'signal' has no attribute 'SIGKILL'"),
        ("__name__ = 'autoseg.cli.machine'; open('/proc/meminfo')", "No such file or directory: '/proc/meminfo'"),
        ("import sys; sys.exit(sys.platform)", "win32"),
    ],
)
def test_what_only_unix_has_is_hidden(statement, message):
    result = run_python("-c", f"from tests.architecture import foreign_system as s; s.hide_unix('win32'); {statement}")
    assert result.returncode != 0
    assert message in result.stderr
