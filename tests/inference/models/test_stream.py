import numpy as np
import torch
from typing_extensions import override

from autoseg.inference.models.case_logits import stream_case_logits
from autoseg.inference.models.loading import LoadedConfiguration
from tests.builders import make_plan

IMAGE = np.random.default_rng(3).normal(size=(1, 12, 16, 20)).astype(np.float32)


class Scaled(torch.nn.Module):
    """Three heads, simple functions of the voxel."""

    @override
    def forward(self, image):
        return torch.cat([image, image * (1 + 1e-4), image * 1e9], dim=1)


def predicted(precision):
    configuration = make_plan({"3d_fullres": (2.0, 1.2, 1.2)}).configurations["3d_fullres"]
    configuration = configuration.model_copy(update={"logits_precision": precision})
    loaded = LoadedConfiguration("3d_fullres", configuration, ("0",), (Scaled(),), ())
    slices = stream_case_logits(loaded, IMAGE)
    return torch.stack(list(slices), dim=1)


def test_finished_logits_are_rounded_where_the_plan_says_so():
    exact, rounded = predicted("float32"), predicted("float16")
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(exact[0], torch.from_numpy(IMAGE[0]))
    np.testing.assert_array_equal(rounded[0].numpy(), exact[0].numpy().astype(np.float16))
    assert (rounded[0] == rounded[1]).float().mean() > 0.5  # equal now, so the first head wins
    assert (exact[0] == exact[1]).float().mean() < 0.5


def test_logits_beyond_float16_stay_finite():
    assert predicted("float16")[2].abs().max() == 65504
