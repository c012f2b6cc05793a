"""Counted costs against those that are computed of this project's own networks."""

import pytest
import torch
from typing_extensions import override

from autoseg.costs.architectures import forward_macs
from autoseg.costs.memory import count_parameters, count_saved_elements
from autoseg.errors import UsageError
from autoseg.networks import counting
from autoseg.networks.counting import count_costs
from tests.builders import make_external_spec, make_network_spec


@pytest.mark.parametrize(
    ("spec", "patches"),
    [
        (make_network_spec(2, output_channels=5), [(8, 12), (32, 64)]),
        (make_network_spec(3, strides=((1, 1, 1), (1, 2, 2)), input_channels=2), [(3, 8, 4), (6, 32, 8)]),
        (make_network_spec(3, architecture="residual_unet", features=(4, 6, 9)), [(8, 8, 16)]),
    ],
)
def test_what_is_counted_is_what_the_formulas_say(spec, patches):
    costs = count_costs(spec, patches)
    assert costs.parameters == count_parameters(spec)
    for patch, point in zip(patches, costs.points, strict=True):
        assert point.macs == forward_macs(spec, patch)
        assert point.kept_elements == pytest.approx(count_saved_elements(spec, patch), rel=0.02)


class Looking(torch.nn.Module):
    """Looks at a value on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 3, 1)

    @override
    def forward(self, image):
        return self.convolution(image) * (1 if image.sum().item() < 1 else 2)


def test_a_network_that_looks_at_values_is_counted_with_values(monkeypatch):
    monkeypatch.setattr(counting, "build_network", lambda *_args, **_more: Looking())
    costs = count_costs(make_external_spec(2), [(4, 4), (8, 8), (1024, 1024)])
    assert [(point.voxels, point.macs) for point in costs.points] == [(16, 3 * 16), (64, 3 * 64)]
    assert costs.parameters == 6


def test_a_patch_that_it_does_not_take_is_named(monkeypatch):
    monkeypatch.setattr(counting, "build_network", lambda *_args, **_more: torch.nn.Conv2d(2, 3, 1))
    with pytest.raises(UsageError, match=r"small fails on a patch of 4 x 8: .*Its package declares that it takes"):
        count_costs(make_external_spec(2), [(4, 8)])
