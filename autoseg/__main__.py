"""`python -m autoseg`: the same as the command `autoseg`; torchrun starts it once for each device."""

import sys

from autoseg.cli.main import main


def _leave_if_launched(code: int) -> None:
    """End a process that torchrun started (`distributed.leave`); only commands that train load that module."""
    if "autoseg.training.distributed" in sys.modules:
        from autoseg.training.distributed import is_launched, leave

        if is_launched():
            leave(code)


if __name__ == "__main__":
    exit_code = main()
    _leave_if_launched(exit_code)
    sys.exit(exit_code)
