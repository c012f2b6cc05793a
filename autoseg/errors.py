"""Every error that autoseg raises on purpose.

    AutosegError            the user can act on the message; the command line prints it without a traceback
    |- UsageError           options or arguments that contradict each other, or an input that does not exist
    |- ImageFileError       one image or label file that cannot be read or written
    |  `- ColorMaskError    a label map with colours that nobody declared; has the colours found
    |- DatasetError         a dataset folder that cannot be used; lists every fault of every case
    |  `- WorkerError       cases that ended the worker processes that worked on them; the others are done
    |- LockedError          another process writes what this one wants to write
    |- WriteError           a file that cannot be written, because the disk is full
    |- RecordError          a JSON file (plan, fingerprint, ...) that is damaged or edited wrongly
    |- PlanningError        no plan fits the data and the budget
    |  `- BudgetError       a limit is too small; names the value that would suffice
    |- TrainingError        training cannot start or cannot continue
    |- PredictionError      a model cannot be loaded, or a case cannot be predicted
    |  `- MemoryLimitError  a case needs more memory than was allowed
    `- InteropError         a model of another project cannot be imported, or a model cannot be exported

A message names the case, the file, what was found, what was expected and what to do.

Tested in tests/cli/test_main.py.
"""

from collections.abc import Mapping


class AutosegError(Exception):
    """A fault that the user can act on; the message is complete without a traceback."""


class UsageError(AutosegError):
    """Options or arguments that contradict each other, or an input that does not exist."""


class ImageFileError(AutosegError):
    """One image or label file that cannot be read or written; the message begins with its path."""


class ColorMaskError(ImageFileError):
    """A label map with colours that nobody declared; the message begins with its path.

    Attributes:
        colors: Number of pixels by colour (red, green, blue), the most frequent first.
    """

    def __init__(self, message: str, colors: Mapping[tuple[int, int, int], int] | None = None) -> None:
        super().__init__(message)
        self.colors = dict(colors or {})


class DatasetError(AutosegError):
    """A dataset that cannot be used as it is; the message lists all faults found."""


class LockedError(AutosegError):
    """Another process plans the workspace or trains the fold; the message says which one, and for how long."""


class WorkerError(DatasetError):
    """Cases that ended the worker processes that worked on them, as when memory ran out; the others are done."""


class WriteError(AutosegError):
    """A file that cannot be written, because the disk is full; the message begins with its path."""


class RecordError(AutosegError):
    """A JSON record that is missing, damaged, of another schema, or edited wrongly."""


class PlanningError(AutosegError):
    """No plan can be made from this fingerprint within this budget."""


class BudgetError(PlanningError):
    """A limit is too small for a configuration; other configurations may need still more.

    Attributes:
        limit: Option that sets the limit, such as `--memory`.
        needed: Smallest sufficient value, in the limit's unit.
    """

    def __init__(self, message: str, limit: str, needed: float) -> None:
        super().__init__(message)
        self.limit = limit
        self.needed = needed


class TrainingError(AutosegError):
    """Training cannot start, or cannot continue."""


class PredictionError(AutosegError):
    """A model cannot be loaded, or a case cannot be predicted."""


class MemoryLimitError(PredictionError):
    """A case needs more memory than was allowed; the message says how much."""


class InteropError(AutosegError):
    """A model of another project cannot be imported, or a model cannot be exported."""
