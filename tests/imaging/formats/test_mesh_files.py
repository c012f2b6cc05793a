"""Meshes as STL and PLY, read back byte by byte."""

import struct

import numpy as np
import pytest

from autoseg.imaging.formats.mesh_files import TRIANGLES_AT_ONCE, Mesh, write_mesh

POINTS = np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 0, -5.5]], dtype=np.float32)
TRIANGLES = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]], dtype=np.int32)


def test_stl(tmp_path):
    write_mesh(Mesh(points=POINTS, triangles=TRIANGLES), tmp_path / "a.stl")
    content = (tmp_path / "a.stl").read_bytes()
    assert not content.startswith(b"solid"), "readers would take it for text"
    assert b"SPACE=LPS" in content[:80]
    assert struct.unpack_from("<I", content, 80) == (4,)
    assert len(content) == 84 + 4 * 50
    for place, corners in enumerate(TRIANGLES):
        *numbers, attribute = struct.unpack_from("<12fH", content, 84 + 50 * place)
        np.testing.assert_array_equal(np.reshape(numbers[3:], (3, 3)), POINTS[corners])
        assert np.linalg.norm(numbers[:3]) == pytest.approx(1)
        assert attribute == 0
    assert struct.unpack_from("<3f", content, 84) == (0, 0, 1)


def test_ply(tmp_path):
    write_mesh(Mesh(points=POINTS, triangles=TRIANGLES), tmp_path / "a.ply")
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "comment autoseg SPACE=LPS" in lines
    assert "element vertex 4" in lines
    assert "element face 4" in lines
    np.testing.assert_array_equal(np.frombuffer(body, "<f4", 12).reshape(4, 3), POINTS)
    faces = [struct.unpack_from("<B3i", body, 48 + 13 * place) for place in range(4)]
    assert faces == [(3, *corners) for corners in TRIANGLES.tolist()]
    assert len(body) == 48 + 4 * 13


@pytest.mark.parametrize(("ending", "size"), [("stl", 50), ("ply", 13)])
def test_more_triangles_than_are_written_at_once(tmp_path, ending, size):
    many = np.tile(TRIANGLES, (TRIANGLES_AT_ONCE // 4 + 1, 1))
    write_mesh(Mesh(points=POINTS, triangles=many), tmp_path / f"a.{ending}")
    content = (tmp_path / f"a.{ending}").read_bytes()
    assert content[-4 * size :] == content[-8 * size : -4 * size]
    assert len(content) % size == (len(content) - len(many) * size) % size
    assert len(content) > len(many) * size


def test_a_triangle_without_area_has_no_normal(tmp_path):
    write_mesh(Mesh(points=POINTS, triangles=np.array([[1, 1, 2]], dtype=np.int32)), tmp_path / "a.stl")
    assert struct.unpack_from("<3f", (tmp_path / "a.stl").read_bytes(), 84) == (0, 0, 0)


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.obj: is no file for a mesh; expected a name that ends in \.stl or \.ply"):
        write_mesh(Mesh(points=POINTS, triangles=TRIANGLES), tmp_path / "a.obj")
    assert not list(tmp_path.iterdir())
