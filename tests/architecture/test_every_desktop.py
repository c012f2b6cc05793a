"""autoseg neither imports nor calls what only Unix has: every module, and a small run from planning to prediction."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import foreign_system

SCRIPT = Path(foreign_system.__file__)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("platform", ["win32", pytest.param("darwin", marks=pytest.mark.slow)])
def test_everything_is_imported_and_a_small_run_succeeds(platform, tmp_path):
    result = run_python(str(SCRIPT), platform, str(tmp_path))
    assert result.returncode == 0, result.stderr


HIDDEN = {
    "import resource": "import of resource halted",
    "import os; os.sched_getaffinity(0)": "module 'os' has no attribute 'sched_getaffinity'",
    "import signal; signal.SIGKILL": "module 'signal' has no attribute 'SIGKILL'",
    "__name__ = 'autoseg.cli.planning_request'; open('/proc/meminfo')": "No such file or directory: '/proc/meminfo'",
    "import sys; raise ValueError(sys.platform)": "win32",
}


def test_what_only_unix_has_is_hidden():
    script = f"""
from tests.architecture import foreign_system
foreign_system.hide_unix("win32")
for statement in {list(HIDDEN)}:
    try:
        exec(statement, {{}})
    except (AttributeError, ImportError, OSError, ValueError) as error:
        print(error)
    else:
        print(f"not hidden: {{statement}}")
"""
    result = run_python("-c", script)
    assert result.returncode == 0, result.stderr
    for line, message in zip(result.stdout.splitlines(), HIDDEN.values(), strict=True):
        assert message in line
