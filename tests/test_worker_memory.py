"""Number of worker processes by the memory of the largest item."""

import pytest

from autoseg import worker_memory
from autoseg.worker_memory import limit_workers


@pytest.mark.parametrize(
    ("each", "memory", "expected"),
    [(10**9, 10**10, 8), (2 * 10**9, 10**10, 4), (10**10, 10**10, 1), (10**12, 10**10, 1), (0, 10**9, 8)],
)
def test_workers_follow_the_memory_of_the_largest_item(each, memory, expected, caplog):
    caplog.set_level("INFO")
    assert limit_workers(8, each, memory, "testing") == expected
    assert ("testing: " in caplog.text) == (expected < 8)


def test_workers_follow_what_is_free_unless_it_is_not_known(monkeypatch):
    monkeypatch.setattr(worker_memory, "measure_available_memory", lambda: 5 * 10**9)
    assert limit_workers(8, 10**9, None, "testing") == 4
    monkeypatch.setattr(worker_memory, "measure_available_memory", lambda: None)
    assert limit_workers(8, 10**9, None, "testing") == 8
