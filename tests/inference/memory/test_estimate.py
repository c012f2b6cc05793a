"""Which place the estimate chooses for sums of windows, and what it says when nothing fits."""

from dataclasses import replace

import pytest
import torch

from autoseg.errors import PredictionError
from autoseg.inference.memory.estimate import (
    AvailableMemory,
    CaseShapes,
    MemberSizes,
    StepSizes,
    choose_storage,
    estimate_case,
    estimate_peak,
    estimate_refinement,
    measure_available,
    with_bins,
)
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.restoring.restore import SLAB_VOXELS
from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.inference.windows.sliding_window import WindowSettings
from tests.builders import CASCADE, make_cascade_plan, make_plan

RAM, FILE, DEVICE = SlabStorage("ram"), SlabStorage("file"), SlabStorage("device")
HALF = SlabStorage("ram", torch.float16)
MEMBER = MemberSizes(preprocessing=100, image=300, slab=1000, weights=10, windows=200, restoring=50)
STEP = StepSizes((MEMBER,), labels=80)
AVAILABLE = AvailableMemory(resident=500, limit=5000, is_limit_set=True, device=None, disk=10_000)


@pytest.mark.parametrize(("limit", "expected"), [(2140, RAM), (2139, FILE), (1140, FILE)])
def test_the_first_that_fits(limit, expected):
    # 500 + 300 + 200 + 50 + 80 = 1130 without the slab; its weights are 10, its sums 1000
    storage, peak = choose_storage([STEP], replace(AVAILABLE, limit=limit), "x")
    assert storage == expected
    assert peak == (2140 if expected == RAM else 1140)


def test_half_precision_where_the_disk_is_full():
    assert choose_storage([STEP], replace(AVAILABLE, limit=1700, disk=999), "x") == (HALF, 1640)
    assert choose_storage([STEP], replace(AVAILABLE, limit=1700, disk=1000), "x")[0] == FILE


def test_a_gpu_takes_the_slab_when_it_fits_beside_the_windows():
    assert choose_storage([STEP], replace(AVAILABLE, device=1550), "x") == (DEVICE, 1130)
    assert choose_storage([STEP], replace(AVAILABLE, device=1549), "x")[0] == RAM


def test_too_little_memory_is_reported_with_numbers():
    big = [StepSizes((replace(MEMBER, image=4_000_000_000),), labels=80)]
    available = replace(AVAILABLE, limit=3_000_000_000, resident=700_000_000)
    with pytest.raises(
        PredictionError,
        match=r"case x: needs about 4\.70 GB of memory, 0\.70 GB of it before.*3\.00 GB are allowed.*--max-memory",
    ):
        choose_storage(big, available, "x")
    # nobody set the limit: the machine may swap
    assert choose_storage(big, replace(available, is_limit_set=False), "x") == (FILE, 4_700_000_340)


def test_configurations_side_by_side_and_steps_one_after_the_other():
    assert estimate_peak([StepSizes((MEMBER, MEMBER), labels=80)], RAM, 0) == 2 * (300 + 1010 + 50) + 200 + 80
    assert estimate_peak([STEP, STEP], RAM, 0) == estimate_peak([STEP], RAM, 0)
    thirsty = StepSizes((replace(MEMBER, preprocessing=9000),), labels=80)
    assert estimate_peak([STEP, thirsty], RAM, 0) == 9300
    assert estimate_peak([replace(STEP, labels=9000)], RAM, 0) == 2 * 9000  # indices, and values in the file


def test_refinement_needs_the_crop_and_one_structure_at_most():
    shapes = CaseShapes(image=(10, 20, 30), cropped=(5, 10, 20), spacing=(1.0, 1.0, 1.0))
    plan = make_plan({}, labels={"background": 0, "a": 1})
    step = estimate_refinement(shapes, channels=2, encoding=plan.encoding)
    assert estimate_peak([step], RAM, 500) == 500 + 1000 * (20 + 2 * 4)
    assert estimate_peak([STEP, step], RAM, 0) == 1000 * (20 + 2 * 4)


def test_bins_need_slabs_while_the_networks_run():
    with_file = with_bins([STEP, STEP])
    assert estimate_peak(with_file, RAM, 500) == estimate_peak([STEP, STEP], RAM, 500) + 16 * SLAB_VOXELS
    assert with_file[1] == STEP


def loaded(plan, name, previous=None):
    return LoadedConfiguration(name, plan.configurations[name], ("0",), (), (), previous=previous)


def steps_of(plan, members, shapes, *, overwrite=False):
    return estimate_case(members, shapes, plan.encoding, WindowSettings(), overwrite=overwrite)


def test_sizes_of_a_case():
    plan = make_plan({"3d_fullres": (2.0, 1.0, 1.0)})
    shapes = CaseShapes(image=(50, 70, 90), cropped=(40, 60, 80), spacing=(1.0, 1.0, 1.0))
    (step,) = steps_of(plan, [loaded(plan, "3d_fullres")], shapes)
    (member,) = step.members
    assert step.labels == 2 * 50 * 70 * 90
    assert member.image == 4 * 20 * 60 * 80
    assert member.slab == 4 * 3 * 16 * 60 * 80  # windows 12 deep start at 0, 4, 8; eight go together
    assert member.preprocessing == 4 * 3 * 40 * 60 * 80  # the copy, and twice the larger grid


def test_an_image_that_is_given_away_is_not_copied():
    plan = make_plan({"3d_fullres": (1.0, 1.0, 1.0)})
    shapes = CaseShapes(image=(50, 70, 90), cropped=(40, 60, 80), spacing=(1.0, 1.0, 1.0))
    member = loaded(plan, "3d_fullres")
    kept, given = (steps_of(plan, [member], shapes, overwrite=overwrite)[0].members[0] for overwrite in (False, True))
    assert (kept.image, given.image) == (4 * 40 * 60 * 80, 0)
    assert kept.preprocessing == given.preprocessing == 0


def test_a_cascade_has_two_steps():
    plan = make_cascade_plan((3.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    shapes = CaseShapes(image=(48, 72, 90), cropped=(48, 72, 90), spacing=(1.0, 1.0, 1.0))
    first = loaded(plan, "3d_lowres")
    last, earlier = steps_of(plan, [loaded(plan, CASCADE, first)], shapes)
    assert earlier.members[0].image == 4 * 16 * 36 * 45
    assert last.members[0].image == 5 * 48 * 72 * 90  # the image, and a byte of the previous label map


def test_memory_of_this_process():
    available = measure_available(None, torch.device("cpu"), 1)
    assert 1e7 < available.resident < 1e12
    assert available.limit is None or available.limit > available.resident
    assert not available.is_limit_set
    assert available.device is None
    assert measure_available(5, torch.device("cpu"), 1).limit == 5
