"""Meshes against volumes and centres of voxels by hand, and SimpleITK's positions of voxels."""

from collections import Counter

import numpy as np
import pytest
import SimpleITK

from autoseg.imaging.arrays.meshes import make_mesh

SHAPE = (26, 34, 46)


def tilted_affine(spacing, degrees=(25, -15, 40), *, flip=1):
    """Affine (x, y, z towards right, anterior, superior) of index (z, y, x), and the same grid as SimpleITK has it."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = (other for other in range(3) if other != axis)
        one = np.eye(3)
        one[[first, first, second, second], [first, second, first, second]] = (
            np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle),
        )  # fmt: skip
        turn = turn @ one
    turn[:, 2] *= flip
    affine = np.eye(4)
    affine[:3, :3] = (turn * spacing[::-1])[:, ::-1]
    affine[:3, 3] = (-31.5, 12.25, 108)
    image = SimpleITK.Image(SHAPE[::-1], SimpleITK.sitkUInt8)
    to_lps = np.diag([-1.0, -1.0, 1.0])
    image.SetSpacing(spacing[::-1])
    image.SetDirection((to_lps @ turn).ravel().tolist())
    image.SetOrigin((to_lps @ affine[:3, 3]).tolist())
    return tuple(map(tuple, affine.tolist())), image


def ball(spacing, radius_mm, center=(12, 16, 22)):
    places = np.moveaxis(np.indices(SHAPE), 0, -1)
    return np.linalg.norm((places - center) * spacing, axis=-1) <= radius_mm


def found(*arguments, **options):
    mesh = make_mesh(*arguments, **options)
    assert mesh is not None
    return mesh


def volume_and_center(mesh):
    corners = mesh.points.astype(np.float64)[mesh.triangles]
    volumes = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    return volumes.sum(), (volumes[:, None] * corners.sum(axis=1) / 4).sum(axis=0) / volumes.sum()


def is_closed(mesh):
    """Whether every edge is run along both ways equally often."""
    edges: Counter[tuple[int, int]] = Counter()
    for corners in mesh.triangles.tolist():
        edges.update(zip(corners, (*corners[1:], corners[0]), strict=True))
    return all(edges[end, start] == count for (start, end), count in edges.items())


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.9, 1.2)])
def test_a_ball_on_a_tilted_grid_keeps_its_volume_and_place(spacing, flip, smooth):
    affine, image = tilted_affine(spacing, flip=flip)
    radius = 8 * min(spacing) + 3
    mesh = found(ball(spacing, radius), affine, smooth=smooth)
    volume, center = volume_and_center(mesh)
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.04), "positive: triangles face outwards"
    np.testing.assert_allclose(center, image.TransformIndexToPhysicalPoint((22, 16, 12)), atol=0.05)
    distances = np.linalg.norm(mesh.points - center, axis=1)
    assert abs(distances - radius).max() < max(spacing)
    assert is_closed(mesh)


def test_smoothing_brings_points_nearer_to_the_ball():
    spacing = (2.5, 0.9, 1.2)
    affine, image = tilted_affine(spacing)
    mask, center = ball(spacing, 11.3), image.TransformIndexToPhysicalPoint((22, 16, 12))
    rough, smooth = (
        np.linalg.norm(found(mask, affine, smooth=smooth).points - center, axis=1).std() for smooth in (False, True)
    )
    assert smooth < 0.6 * rough


@pytest.mark.parametrize("flip", [1, -1])
def test_a_structure_that_fills_the_image_is_closed_at_its_borders(flip):
    spacing = (2.5, 0.9, 1.2)
    affine, image = tilted_affine(spacing, flip=flip)
    mesh = found(np.ones(SHAPE, dtype=bool), affine)
    assert is_closed(mesh)
    volume, center = volume_and_center(mesh)
    assert volume == pytest.approx(np.prod(SHAPE) * np.prod(spacing), rel=0.01)
    middle = [(size - 1) / 2 for size in SHAPE[::-1]]
    np.testing.assert_allclose(center, image.TransformContinuousIndexToPhysicalPoint(middle), atol=1e-3)


def test_voxels_at_random_are_closed_surfaces():
    generator = np.random.default_rng(0)
    for fraction in (0.2, 0.5, 0.8):
        mask = generator.random((6, 7, 8)) < fraction
        assert is_closed(found(mask, tilted_affine((1.0, 1.0, 1.0))[0]))


@pytest.mark.parametrize("smooth", [False, True])
def test_one_voxel_and_none(smooth):
    affine, image = tilted_affine((2.5, 0.9, 1.2))
    mask = np.zeros(SHAPE, dtype=bool)
    assert make_mesh(mask, affine, smooth=smooth) is None
    mask[25, 0, 45] = True
    _, center = volume_and_center(found(mask, affine, smooth=smooth))
    np.testing.assert_allclose(center, image.TransformIndexToPhysicalPoint((45, 0, 25)), atol=1e-3)
