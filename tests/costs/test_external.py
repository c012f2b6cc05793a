"""Networks of other packages: their levels, their patches, and costs between those that were counted."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.costs.architectures import forward_macs, list_operations
from autoseg.costs.external import describe_external, fit_edges, level_strides, patches_to_count
from autoseg.costs.memory import (
    count_finest_features,
    count_parameters,
    count_saved_elements,
    estimate_training_memory_bytes,
)
from autoseg.records.external import ExternalNetwork, NetworkDeclaration
from tests.builders import make_costs, make_external_spec, make_network_spec

EDGES = st.tuples(*[st.integers(1, 40)] * 3)


@given(EDGES, st.sampled_from([2, 3]))
def test_strides_multiply_to_the_divisors(divisors, dimensions):
    strides = level_strides(divisors, dimensions)
    assert strides[0] == (1,) * dimensions
    assert len(strides) > 1
    assert tuple(prod(axis) for axis in zip(*strides, strict=True)) == divisors[-dimensions:]


@given(EDGES, EDGES, st.lists(st.floats(0.5, 300), min_size=2, max_size=3))
def test_patches_are_padded_to_what_the_network_takes(divisors, smallest, edges):
    declaration = NetworkDeclaration(divisors=divisors, smallest_patch=smallest)
    fitting = fit_edges(declaration, edges)
    assert fitting != divisors[-len(edges) :]
    for axis, (found, edge, divisor, least) in enumerate(
        zip(fitting, edges, divisors[-len(edges) :], smallest[-len(edges) :], strict=True)
    ):
        assert found % divisor == 0
        assert found >= max(edge, least)
        assert found < max(edge, least) + divisor or (axis == 0 and found == 2 * divisor)


def test_costs_of_other_patches_lie_on_the_line_through_those_that_were_counted():
    spec = make_external_spec(2)
    assert count_parameters(spec) == 500
    # between, above and below 1000 and 3000 voxels
    for patch, macs, kept in [((40, 52), 31_600, 10_400), ((100, 40), 70_000, 20_000), ((16, 32), 240, 2560)]:
        assert forward_macs(spec, patch) == macs
        assert count_saved_elements(spec, patch) == kept
    operations = list_operations(spec, (40, 52))
    assert sum(operation.kind == "measured" for operation in operations) == 7
    assert max(operation.elements for operation in operations if operation.kind == "measured") == 1872
    assert operations[-1].elements == 3 * 40 * 52


def test_memory_grows_with_the_patch_and_the_batch():
    spec = make_external_spec(3)
    sizes = [((8, 16, 16), 1), ((8, 16, 16), 2), ((16, 16, 16), 2), ((16, 32, 16), 2)]
    found = [
        estimate_training_memory_bytes(spec, patch, batch, mixed_precision=False, optimizer="sgd")
        for patch, batch in sizes
    ]
    assert found == sorted(set(found))


def test_its_largest_tensor_stands_for_the_feature_maps_at_full_resolution():
    costs = make_costs().model_copy(update={"points": make_costs().points[:1]})
    wide = costs.points[0].model_copy(update={"largest_elements": 7500})
    spec = make_external_spec(2, costs=costs.model_copy(update={"points": (wide,)}))
    assert count_finest_features(spec, (40, 52)) == 8
    assert count_finest_features(make_external_spec(2), (40, 52)) == 4  # less than a map for each of `features`
    assert count_finest_features(make_network_spec(2, features=(5, 9)), (40, 52)) == 5


def test_a_network_that_was_not_counted_has_no_costs():
    with pytest.raises(ValueError, match="no costs were counted on small"):
        list_operations(make_external_spec(costs=None), (8, 8, 8))


def test_it_is_described_as_it_declares_or_as_it_is_planned():
    known = ExternalNetwork(
        name="small", package="small-networks", dimensions=3, options={"a": "b"}, costs=make_costs(),
        declaration=NetworkDeclaration(divisors=(1, 2, 2), requires=("monai",)),
    )  # fmt: skip
    spec = describe_external(known, 2, 4)
    assert (spec.network_package, spec.network_options) == ("small-networks monai", {"a": "b"})
    assert (spec.input_channels, spec.output_channels, spec.strides) == (2, 4, ((1, 1, 1), (1, 2, 2)))
    planned = make_network_spec(3, features=(4, 5, 6))
    assert describe_external(known, 2, 4, planned.strides).strides == planned.strides


def test_patches_that_are_counted_grow_and_fit():
    known = ExternalNetwork(
        name="small", package="small-networks", dimensions=3, costs=make_costs(),
        declaration=NetworkDeclaration(divisors=(8, 32, 32), smallest_patch=(8, 96, 96)),
    )  # fmt: skip
    patches = patches_to_count(known)
    assert patches[0] == (16, 96, 96)
    assert len(patches) > 2
    assert all(edge % divisor == 0 for patch in patches for edge, divisor in zip(patch, (8, 32, 32), strict=True))
