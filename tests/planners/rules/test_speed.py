"""Speed of a network: measured, interpolated, assumed."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.costs.architectures import forward_macs, list_operations
from autoseg.costs.windows import count_windows
from autoseg.errors import PlanningError
from autoseg.records.budget import Budget, Throughput
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture, NetworkSpec
from autoseg.records.plan import Configuration, Plan
from autoseg.testing import synthetic_fingerprint
from planners import residual_encoder, unet, unext
from planners.rules.speed import (
    explain_latency,
    forward_seconds,
    is_measured,
    keeps_latency,
    macs_per_second,
    needed_latency,
    prediction_seconds,
    step_seconds,
)
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


def test_launches_take_their_time_whatever_the_patch():
    """A small step of 20 ms, most of it launches: a planned one takes 167 ms, not the 950 of its speed alone."""
    measured = point(3, 32, 400e9 / 0.060, prediction=1e12).model_copy(
        update={"seconds_per_operation": 3e-4, "prediction_seconds_per_operation": 1e-4}
    )
    budget, spec = Budget(throughput=(measured,)), network("unet", 3, 32)
    macs, operations = forward_macs(spec, PATCH[3]), len(list_operations(spec, PATCH[3]))
    assert step_seconds(budget, spec, PATCH[3], 5) == pytest.approx(5 * macs / (400e9 / 0.060) + operations * 3e-4)
    assert forward_seconds(budget, spec, PATCH[3]) == pytest.approx(macs / 1e12 + operations * 1e-4)
    # another architecture takes the launches of plain U-Nets, for its own number of operations
    other = network("residual_unet", 3, 32)
    launches = len(list_operations(other, PATCH[3])) * 3e-4
    assert step_seconds(budget, other, PATCH[3], 1) == pytest.approx(
        launches + forward_macs(other, PATCH[3]) / (0.8 * 400e9 / 0.060)
    )


def test_the_slowest_launches_of_all_measured_widths_count():
    narrow, wide = (
        point(3, width, 1e12).model_copy(update={"seconds_per_operation": seconds})
        for width, seconds in ((8, 2e-4), (32, 5e-4))
    )
    budget, spec = Budget(throughput=(narrow, wide)), network("unet", 3, 16)
    expected = len(list_operations(spec, PATCH[3])) * 5e-4 + forward_macs(spec, PATCH[3]) / 1e12
    assert step_seconds(budget, spec, PATCH[3], 1) == pytest.approx(expected)


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


PLANS = {"unet": unet.plan, "resenc-m": residual_encoder.plan_m, "unext": unext.plan}


def throughput(speed: float) -> tuple[Throughput, ...]:
    """Of networks of 16 feature maps and more; narrower ones are slower in proportion."""
    return tuple(
        Throughput(dimensions=dimensions, base_features=16, macs_per_second=speed, prediction_macs_per_second=speed)
        for dimensions in (2, 3)
    )


def brain(count=9) -> Fingerprint:
    return synthetic_fingerprint([(1.5, 1.0, 1.0)] * count, [(90, 169, 138)] * count)


def test_seconds_are_windows_times_passes_times_multiplications():
    budget = Budget(throughput=throughput(1e10))
    made = unet.plan(brain(), Budget()).configurations["3d_fullres"]
    seconds = prediction_seconds(budget, made.network, (64, 64, 64), (100, 128, 64), passes=8)
    assert seconds == pytest.approx(3 * 3 * 8 * forward_macs(made.network, (64, 64, 64)) / 1e10)


def test_30_percent_are_kept_for_the_rest():
    assert keeps_latency(Budget(), math.inf)
    assert keeps_latency(Budget(latency_seconds=10.0), 7.0)
    assert not keeps_latency(Budget(latency_seconds=10.0), 7.001)
    assert needed_latency(7.0) == 10.0
    assert needed_latency(7.001) == 10.1
    assert needed_latency(0.001) == 0.1
    assert "about 3.5 s; with 30% kept" in explain_latency(Budget(latency_seconds=5.0), 3.49)
    assert explain_latency(Budget(latency_seconds=5.0), 3.49).endswith("within 5 s.")


@given(st.floats(1e-9, 1e5))
def test_the_needed_latency_is_kept_and_a_tenth_less_is_not(seconds):
    needed = needed_latency(seconds)
    assert keeps_latency(Budget(latency_seconds=needed), seconds)
    if needed > 0.11:
        assert not keeps_latency(Budget(latency_seconds=needed - 0.1), seconds * (1 + 1e-9))


@given(st.integers(1, 10**6))
def test_the_needed_latency_is_kept_by_times_on_the_edge(tenths):
    seconds = tenths / 10 * 0.7  # rounded up or down: in either case what is named has to do
    for time in (seconds, math.nextafter(seconds, math.inf)):
        assert keeps_latency(Budget(latency_seconds=needed_latency(time)), time)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("planner", PLANS)
def test_an_error_names_the_latency_that_works(planner, configuration):
    def plan(latency: float) -> Plan:
        budget = Budget(configurations=(configuration,), latency_seconds=latency, throughput=throughput(1e9))
        return PLANS[planner](brain(), budget)

    with pytest.raises(PlanningError, match=r"network of this planner predicts a median case within 0\.01 s") as caught:
        plan(0.01)
    needed = float(str(caught.value).split("the fastest needs ")[1].split(" s.")[0])
    made = plan(needed).configurations[configuration]
    assert network_seconds(made, 1e9) <= 0.7 * needed
    assert made.network.features[0] == 8
    with pytest.raises(PlanningError, match=f"the fastest needs {needed:g} s"):
        plan(needed - 0.1)


def network_seconds(made: Configuration, speed: float) -> float:
    """Independently of the rule: windows as prediction takes them; speed falls below 16 feature maps."""
    shape = [round(size) for size in (90.0, *made.median_shape)[-3:]]
    windows = count_windows((shape[0], shape[1], shape[2]), made.patch_size)
    share = {"unet": 1.0, "residual_unet": 0.8, "unext": 0.2}[made.network.architecture]
    at_width = speed * share * min(made.network.features[0] / 16, 1.0)
    return windows * forward_macs(made.network, made.patch_size) / at_width


def test_without_mirroring_and_with_the_reason():
    budget = Budget(latency_seconds=50.0, throughput=throughput(1e10), configurations=("3d_fullres",))
    made = unet.plan(brain(), budget)
    chosen = made.configurations["3d_fullres"]
    assert chosen.training.mirror_axes == ()
    assert network_seconds(chosen, 1e10) <= 35.0
    [decision] = [decision for decision in made.decisions if decision.what == "3d_fullres.base_features"]
    assert "A median case takes the network about" in decision.reason
    assert chosen.training.epochs == 1000  # training time is not limited


def test_no_cascade_with_a_latency():
    large = synthetic_fingerprint([(1.0, 0.8, 0.8)] * 9, [(482, 512, 512)] * 9)
    free = unet.plan(large, Budget())
    limited = unet.plan(large, Budget(latency_seconds=1e5, throughput=throughput(1e12)))
    assert set(free.configurations) - set(limited.configurations) == {"3d_cascade_fullres"}
    [decision] = [decision for decision in limited.decisions if decision.what == "3d_cascade_fullres"]
    assert decision.value is False
    assert "prediction time is limited" in decision.reason
    with pytest.raises(PlanningError, match="3d_cascade_fullres is not available"):
        unet.plan(large, Budget(latency_seconds=1e5, configurations=("3d_cascade_fullres",)))


THIN = synthetic_fingerprint([(0.53, 4.24, 2.39)] * 4000, [(215, 216, 20)] * 4000)


def test_a_latency_alone_leaves_patch_and_batch():
    free = unet.plan(THIN, Budget(configurations=("3d_fullres",))).configurations["3d_fullres"]
    limit = Budget(latency_seconds=5.0, throughput=throughput(1.5e11), configurations=("3d_fullres",))
    made = unet.plan(THIN, limit).configurations["3d_fullres"]
    assert made.network.features[0] < free.network.features[0]
    assert made.patch_size == free.patch_size
    assert made.batch_size == free.batch_size


spacings = st.tuples(*[st.floats(0.3, 6.0).map(lambda value: round(value, 3))] * 3)

shapes = st.tuples(*[st.integers(1, 400)] * 3)


@pytest.mark.parametrize("planner", PLANS)
@settings(max_examples=15, deadline=None)
@given(spacings, shapes, st.floats(0.05, 300.0), st.floats(1.0, 30.0), st.sampled_from(["cpu", "cuda"]))
def test_more_latency_never_gives_a_narrower_network(planner, spacing, shape, latency, factor, device):
    fingerprint = synthetic_fingerprint([spacing] * 9, [shape] * 9)
    budget = Budget(device=device, latency_seconds=latency, throughput=throughput(1e11))
    try:
        little = PLANS[planner](fingerprint, budget)
    except PlanningError:
        return  # any network is wider than none
    much = PLANS[planner](fingerprint, budget.model_copy(update={"latency_seconds": latency * factor}))
    assert much.configurations.keys() == little.configurations.keys()
    for name, small in little.configurations.items():
        assert small.network.features[0] <= much.configurations[name].network.features[0]
