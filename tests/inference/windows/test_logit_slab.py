"""The moving slab against sums in an array of the whole volume."""

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import PredictionError
from autoseg.inference.windows.logit_slab import LogitSlab, SlabStorage, open_slab

EXACT = [SlabStorage("ram"), SlabStorage("file"), SlabStorage("device")]
HALF = [SlabStorage("ram", torch.float16), SlabStorage("file", torch.float16)]


@st.composite
def windows_of_a_volume(draw):
    """A volume's shape, the depth of windows, and their first slices in order: every slice is covered."""
    depth = draw(st.integers(1, 5))
    starts = [0]
    for _ in range(draw(st.integers(0, 8))):
        starts.append(starts[-1] + draw(st.integers(0, depth)))
    return (starts[-1] + depth, draw(st.integers(1, 4)), draw(st.integers(1, 5))), depth, starts


def blend(volume, storage, heads=2):
    """Slices as the slab gives them, and the volume summed in one piece."""
    shape, depth, starts = volume
    generator = torch.Generator().manual_seed(len(starts))
    slab = LogitSlab(heads, depth, shape[1:], storage)
    total, norm = torch.zeros(heads, *shape), torch.zeros(shape)
    found: list[torch.Tensor] = []
    for start in starts:
        logits = torch.randn(heads, depth, *shape[1:], generator=generator) * 20
        weights = torch.rand(depth, *shape[1:], generator=generator) + 1e-6
        total[:, start : start + depth] += logits * weights
        norm[start : start + depth] += weights
        found += [slab.pop(index) for index in range(len(found), start)]
        slab.add(logits, weights, start, slice(0, shape[1]), slice(0, shape[2]))
    found += [slab.pop(index) for index in range(len(found), shape[0])]
    return torch.stack(found, dim=1), total / norm


@pytest.mark.parametrize("storage", EXACT, ids=SlabStorage.describe)
@settings(deadline=None, max_examples=40)
@given(windows_of_a_volume())
def test_float32_is_the_whole_volume_to_the_bit(storage, volume):
    found, expected = blend(volume, storage)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("storage", HALF, ids=SlabStorage.describe)
@settings(deadline=None, max_examples=20)
@given(windows_of_a_volume())
def test_float16_rounds_the_mean_so_far(storage, volume):
    found, expected = blend(volume, storage)
    assert found.dtype == torch.float32
    windows = len(volume[2])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03 * windows)


def test_tiny_weights_count_in_float16():
    """A corner that one window sees with a weight far below float16: its logits, not zero."""
    slab = LogitSlab(1, 1, (1, 2), SlabStorage("ram", torch.float16))
    slab.add(torch.tensor([[[[3.0, 5.0]]]]), torch.tensor([[[6e-9, 1.0]]]), 0, slice(0, 1), slice(0, 2))
    assert slab.pop(0).tolist() == [[[3.0, 5.0]]]


def test_windows_fill_a_part_of_the_plane():
    slab = LogitSlab(1, 2, (3, 4), SlabStorage("file"))
    slab.add(torch.ones(1, 2, 3, 2), torch.ones(2, 3, 2), 0, slice(0, 3), slice(0, 2))
    slab.add(torch.full((1, 2, 3, 3), 4.0), torch.full((2, 3, 3), 2.0), 0, slice(0, 3), slice(1, 4))
    for index in (0, 1):
        assert slab.pop(index)[0, 1].tolist() == [1, 3, 4, 4]  # (1 x 1 + 2 x 4) / 3 where both lie


def open_files():
    """Number of open file descriptors, where the system lists them."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_the_file_has_no_name_and_goes_with_the_slab(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gc.collect()  # garbage of earlier tests may hold open files
    before = open_files()
    slab = LogitSlab(3, 4, (5, 6), SlabStorage("file"))
    assert list(tmp_path.iterdir()) == []
    del slab
    gc.collect()
    assert open_files() == before


def test_a_full_disk_is_told(monkeypatch):
    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with pytest.raises(PredictionError, match=r"no temporary file of 0\.48 GB for logits .*No space left.*TMPDIR"):
        LogitSlab(10, 12, (1000, 1000), SlabStorage("file"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_pages_of_the_file_are_not_held():
    code = """if True:  # in a process of its own: one that ran other tests also frees and takes memory for them
        import torch
        from autoseg.inference.windows.logit_slab import LogitSlab, SlabStorage, open_slab
        from autoseg.system import measure_resident_memory

        logits, weights = torch.ones(40, 16, 256, 256), torch.ones(16, 256, 256)
        before = measure_resident_memory()
        slab = LogitSlab(40, 16, (256, 256), SlabStorage("file"))  # 168 MB
        slab.add(logits, weights, 0, slice(0, 256), slice(0, 256))
        added = measure_resident_memory()
        all_ones = all(bool((slab.pop(index) == 1).all()) for index in range(16))
        print(added - before, measure_resident_memory() - before, all_ones)
    """
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added, popped, all_ones = answer.stdout.split()
    assert int(added) < 60_000_000
    assert int(popped) < 100_000_000  # slices that were freed may still be kept by the C library
    assert all_ones == "True"


def test_sums_for_which_the_device_is_too_small_are_kept_in_ram(monkeypatch, caplog):
    zeros, asked = torch.zeros, []

    def limited_zeros(shape, **options):
        asked.append(str(options.get("device", "cpu")))
        if asked[-1] != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return zeros(shape, **options)

    monkeypatch.setattr(torch, "zeros", limited_zeros)
    slab = open_slab(2, 3, (4, 5), SlabStorage("device", device=torch.device("meta")))
    assert slab.device == torch.device("cpu")
    assert asked == ["meta", "cpu", "cpu"]
    assert "they are kept in RAM" in caplog.text
    monkeypatch.setattr(torch, "zeros", _fail)
    with pytest.raises(RuntimeError, match="other"):
        open_slab(2, 3, (4, 5), SlabStorage("device", device=torch.device("meta")))


def _fail(*_arguments, **_options):
    raise RuntimeError("other")


def test_sums_may_move_to_ram_between_two_windows():
    slab = LogitSlab(1, 2, (1, 2), SlabStorage("device"))
    slab.add(torch.ones(1, 2, 1, 2), torch.ones(2, 1, 2), 0, slice(0, 1), slice(0, 2))
    slab.move_to_ram()
    slab.add(torch.full((1, 2, 1, 2), 3.0), torch.ones(2, 1, 2), 0, slice(0, 1), slice(0, 2))
    assert slab.pop(0).tolist() == [[[2.0, 2.0]]]
