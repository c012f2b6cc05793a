"""`python -m autoseg`: the same as the command `autoseg`; what torchrun starts several times."""

import sys

from autoseg.cli.main import main


def _leave_if_launched(code: int) -> None:
    """End a process that torchrun started, see `distributed.leave`; only a command that trains has loaded that."""
    if "autoseg.training.distributed" in sys.modules:
        from autoseg.training.distributed import is_launched, leave

        if is_launched():
            leave(code)


if __name__ == "__main__":
    exit_code = main()
    _leave_if_launched(exit_code)
    sys.exit(exit_code)
