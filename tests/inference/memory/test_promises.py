"""What is left for a case beside others that run, in bytes counted by hand."""

from contextlib import ExitStack
from dataclasses import replace

import pytest

from autoseg.errors import PredictionError
from autoseg.inference.memory.estimate import AvailableMemory, MemberSizes, StepSizes
from autoseg.inference.memory.promises import CaseEstimate, PromisedMemory
from autoseg.inference.windows.logit_slab import SlabStorage

RAM, FILE, DEVICE = SlabStorage("ram"), SlabStorage("file"), SlabStorage("device")
MEMBER = MemberSizes(preprocessing=100, image=300, slab=1000, weights=10, windows=200, restoring=50)
CASE = CaseEstimate("a", (StepSizes((MEMBER,), labels=80),), image_bytes=40, resident=500)
"""Beside the network 1550 bytes; on the host 1640 with sums in RAM, 640 with sums in a file of 1000."""

AVAILABLE = AvailableMemory(resident=500, limit=10_000, is_limit_set=False, device=3000, disk=1500)


def test_what_the_device_has_room_for_is_promised_once():
    promised = PromisedMemory()
    with promised.promise(CASE, AVAILABLE) as (first, _):
        # the first case has not taken anything yet: 3000 bytes are still free
        with promised.promise(CASE, AVAILABLE) as (second, _):
            assert (first, second) == (DEVICE, RAM)
        with promised.promise(CASE, replace(AVAILABLE, device=3100)) as (third, _):
            assert third == RAM
    with promised.promise(CASE, AVAILABLE) as (alone, _):
        assert alone == DEVICE


def test_what_others_take_meanwhile_is_not_promised():
    promised = PromisedMemory()
    with promised.promise(CASE, replace(AVAILABLE, device=4000)), ExitStack() as stack:
        assert stack.enter_context(promised.promise(CASE, replace(AVAILABLE, device=1549)))[0] == RAM


def test_memory_of_the_host_is_promised_once():
    room = replace(AVAILABLE, device=None, limit=500 + 2 * 1640 - 1)
    promised = PromisedMemory()
    with promised.promise(CASE, room) as first, promised.promise(CASE, room) as second:
        assert first == (RAM, 500 + 1640)
        assert second == (FILE, 500 + 1640 + 640)


def test_the_disk_is_promised_once():
    room = replace(AVAILABLE, device=None, limit=1500)
    promised = PromisedMemory()
    with promised.promise(CASE, room) as (first, _), promised.promise(CASE, room) as (second, _):
        assert first == FILE
        assert second.place == "ram"  # in half precision: the disk has no room for a second file


def test_a_limit_of_the_user_holds_for_all_cases_together():
    room = replace(AVAILABLE, device=None, limit=2500, is_limit_set=True)
    promised = PromisedMemory()
    with (
        promised.promise(CASE, room),
        pytest.raises(PredictionError, match="case a: needs about"),
        ExitStack() as stack,
    ):
        stack.enter_context(promised.promise(CASE, room))
    with promised.promise(CASE, room) as (alone, _):
        assert alone == RAM


def test_what_the_case_before_held_while_this_one_was_prepared_is_free_again():
    """The process held sums of 2000 bytes then; they are gone now."""
    prepared = replace(CASE, resident=2500)
    room = replace(AVAILABLE, device=None, limit=500 + 1640)
    with PromisedMemory().promise(prepared, room) as found:
        assert found == (RAM, 500 + 1640)


def test_a_case_that_fails_gives_its_promise_back():
    promised = PromisedMemory()
    with pytest.raises(RuntimeError), promised.promise(CASE, AVAILABLE):
        raise RuntimeError
    with promised.promise(CASE, AVAILABLE) as (storage, _):
        assert storage == DEVICE
