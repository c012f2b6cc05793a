"""Speed of a network: measured, interpolated, assumed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.costs.architectures import forward_macs
from autoseg.records.budget import Budget, Throughput
from autoseg.records.network import Architecture, NetworkSpec
from planners.rules.speed import forward_seconds, is_measured, macs_per_second, step_seconds
from tests.builders import make_network_spec

PATCH = {2: (64, 48), 3: (16, 32, 48)}


def network(architecture: Architecture, dimensions: int, base_features: int) -> NetworkSpec:
    """Two levels; the numbers matter to the multiplications only."""
    unext = architecture == "unext"
    features = (base_features, base_features if unext else 2 * base_features)
    return make_network_spec(dimensions, architecture=architecture, output_channels=2, features=features)


def point(dimensions, base_features, speed, architecture: Architecture = "unet", prediction=None) -> Throughput:
    return Throughput(
        architecture=architecture,
        dimensions=dimensions,
        base_features=base_features,
        macs_per_second=speed,
        prediction_macs_per_second=prediction,
    )


@pytest.mark.parametrize(
    ("dimensions", "width", "speed"),
    [
        (3, 8, 20e9),
        (3, 16, 40e9),  # half way in the logarithm
        (3, 24, 51.699e9),  # 20 + 40 * ln 3 / ln 4
        (3, 32, 60e9),
        (3, 64, 60e9),  # as the widest
        (3, 4, 10e9),  # in proportion to the narrowest
        (2, 32, 1e9),
    ],
)
def test_between_measured_widths(dimensions, width, speed):
    budget = Budget(throughput=(point(3, 32, 60e9), point(3, 8, 20e9), point(2, 8, 1e9)))
    assert macs_per_second(budget, network("unet", dimensions, width)) == pytest.approx(speed, rel=1e-4)


def test_three_measured_widths_are_joined_piecewise():
    budget = Budget(throughput=(point(3, 8, 10e9), point(3, 16, 40e9), point(3, 64, 50e9)))
    assert macs_per_second(budget, network("unet", 3, 16)) == pytest.approx(40e9)
    assert macs_per_second(budget, network("unet", 3, 32)) == pytest.approx(45e9)


@pytest.mark.parametrize(
    ("device", "architecture", "speed"),
    [
        ("cpu", "unet", 10e9),
        ("cuda", "unet", 1e12),
        ("cpu", "residual_unet", 8e9),
        ("cuda", "unext", 2e11),
    ],
)
def test_assumed_without_a_measurement(device, architecture, speed):
    spec = network(architecture, 3, 8)
    other_dimensions = Budget(device=device, throughput=(point(2, 8, 1e9), point(2, 8, 1e9, architecture)))
    for budget in (Budget(device=device), other_dimensions):
        assert macs_per_second(budget, spec) == pytest.approx(speed)
        assert not is_measured(budget, spec)


def test_each_architecture_has_its_own_measurements():
    budget = Budget(throughput=(point(3, 16, 9e9), point(3, 16, 5e9, "residual_unet"), point(3, 16, 4e9, "unext")))
    assert macs_per_second(budget, network("unet", 3, 16)) == 9e9
    assert macs_per_second(budget, network("residual_unet", 3, 16)) == 5e9
    assert macs_per_second(budget, network("unext", 3, 16)) == 4e9


@pytest.mark.parametrize(("architecture", "share"), [("residual_unet", 0.8), ("unext", 0.2)])
def test_a_measured_u_net_speaks_for_the_others(architecture, share):
    budget = Budget(throughput=(point(3, 8, 20e9), point(3, 32, 60e9)))
    assert macs_per_second(budget, network(architecture, 3, 16)) == pytest.approx(share * 40e9)
    assert not is_measured(budget, network(architecture, 3, 16))
    assert is_measured(budget, network("unet", 3, 16))


def test_a_measured_residual_network_does_not_speak_for_the_plain_one():
    budget = Budget(device="cpu", throughput=(point(3, 8, 20e9, "residual_unet"),))
    assert macs_per_second(budget, network("unet", 3, 8)) == 10e9


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_step_is_the_batchs_multiplications(dimensions):
    spec, patch_size = network("unet", dimensions, 8), PATCH[dimensions]
    budget = Budget(throughput=(point(dimensions, 8, 1e9),))
    assert step_seconds(budget, spec, patch_size, 6) == pytest.approx(6 * forward_macs(spec, patch_size) / 1e9)


def test_a_forward_pass_is_a_third_of_a_step_unless_measured():
    spec, macs = network("unet", 3, 8), forward_macs(network("unet", 3, 8), PATCH[3])
    unmeasured = Budget(throughput=(point(3, 8, 1e9),))
    assert forward_seconds(unmeasured, spec, PATCH[3]) == pytest.approx(macs / 3e9)
    assert forward_seconds(Budget(device="cpu"), spec, PATCH[3]) == pytest.approx(macs / 3e10)


def test_a_measured_forward_pass():
    points = (point(3, 8, 1e9, prediction=5e9), point(3, 32, 2e9, prediction=9e9))
    for width, speed in ((8, 5e9), (16, 7e9), (64, 9e9), (4, 2.5e9)):
        spec = network("unet", 3, width)
        expected = forward_macs(spec, PATCH[3]) / speed
        assert forward_seconds(Budget(throughput=points), spec, PATCH[3]) == pytest.approx(expected)
        # the training speed stays what it was
        assert macs_per_second(Budget(throughput=points), spec) < 2.1e9


def test_a_measured_forward_pass_of_a_u_net_speaks_for_the_others():
    spec = network("unext", 3, 8)
    expected = forward_macs(spec, PATCH[3]) / (0.2 * 5e9)
    budget = Budget(throughput=(point(3, 8, 1e9, prediction=5e9),))
    assert forward_seconds(budget, spec, PATCH[3]) == pytest.approx(expected)


measurements = st.lists(
    st.builds(
        point, st.sampled_from([2, 3]), st.integers(4, 64), st.floats(1e8, 1e13),
        st.sampled_from(["unet", "residual_unet", "unext"]),
    ),
    max_size=6,
)  # fmt: skip
architectures = st.sampled_from(["unet", "residual_unet", "unext"])


@given(measurements, st.randoms(use_true_random=False), architectures, st.sampled_from([2, 3]), st.integers(1, 128))
def test_speed_lies_between_what_was_measured_in_any_order(points, random, architecture, dimensions, width):
    spec, shuffled = network(architecture, dimensions, width), list(points)
    random.shuffle(shuffled)
    speed = macs_per_second(Budget(throughput=tuple(points)), spec)
    assert speed > 0
    assert macs_per_second(Budget(throughput=tuple(shuffled)), spec) == speed
    own = [(p.base_features, p.macs_per_second) for p in points
           if (p.architecture, p.dimensions) == (architecture, dimensions)]  # fmt: skip
    assert is_measured(Budget(throughput=tuple(points)), spec) is bool(own)
    if own and width >= min(own)[0]:
        speeds = [value for _, value in own]
        assert min(speeds) * (1 - 1e-9) <= speed <= max(speeds) * (1 + 1e-9)
