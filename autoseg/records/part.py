"""Several processes share one folder of images: each takes every n-th case, and has its own lists beside the results.

No list is shared, so nothing has to be locked: parts may run at the same time, on file systems of any kind. A run over
all cases afterwards (with `--skip-existing`) predicts what is missing and brings the lists together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`; 1 of 1 is the whole run.

    Examples:
        >>> Part(2, 3).take("abcdefgh")
        'beh'
        >>> Part(2, 3).file_name("failures.json"), Part().file_name("failures.json")
        ('failures_part_2_of_3.json', 'failures.json')
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"part {self.number} of {self.count}: expected 1 to {self.count}, of at least 1")

    @property
    def is_whole(self) -> bool:
        """Whether this is the whole run."""
        return self.count == 1

    def take(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `count`-th item from the `number`-th on; all parts together have every item once.

        References:
            nnU-Net v2 (Isensee et al. 2021), prediction from folders in several parts; its parts count from 0.
        """
        return items[self.number - 1 :: self.count]

    def file_name(self, name: str) -> str:
        """The part's own name of a list that a run writes."""
        if self.is_whole:
            return name
        stem, dot, ending = name.partition(".")
        return f"{stem}_part_{self.number}_of_{self.count}{dot}{ending}"


WHOLE_RUN = Part()
"""All cases."""
