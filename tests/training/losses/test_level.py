import pytest
import torch

from autoseg.training.losses.level import fractional_power


def test_a_power_below_one_has_a_finite_slope_at_zero():
    base = torch.tensor([0.0, -1e-8, 1e-4, 0.5], requires_grad=True)
    power = fractional_power(base, 0.3)
    power.sum().backward()
    assert power.tolist() == pytest.approx([0.0, 0.0, 1e-4**0.3, 0.5**0.3], abs=1e-7)
    assert base.grad is not None
    assert base.grad.tolist() == pytest.approx([0.0, 0.0, 0.3 * 1e-4**-0.7, 0.3 * 0.5**-0.7], rel=1e-4)
