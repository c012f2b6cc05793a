"""Triangle meshes as files: STL and PLY, both binary and little-endian.

Coordinates are those of DICOM patients: mm towards left, posterior and superior (LPS). The header says so in the words
that 3D Slicer writes and reads, `SPACE=LPS`.

Tested in tests/imaging/formats/test_mesh_files.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from autoseg.records.files import replacing

COORDINATES = "SPACE=LPS"
"""Words in the header that name the coordinates."""

STL_HEADER_BYTES = 80

TRIANGLES_AT_ONCE = 2**16
"""Triangles that are put together in memory before they are written."""

_STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])

_PLY_TRIANGLE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """A surface of triangles."""

    points: NDArray[np.float32]
    """Corners (N, 3) in mm: x, y, z towards left, posterior, superior."""
    triangles: NDArray[np.int32]
    """Positions (M, 3) of their corners in `points`, counterclockwise as seen from outside."""


def write_mesh(mesh: Mesh, path: Path) -> None:
    """Write a mesh atomically.

    Args:
        mesh: The surface.
        path: File to write; it ends in `.stl` or `.ply`, which decides the format.

    Raises:
        ValueError: If the file has another ending.
        OSError: If it cannot be written.

    References:
        StereoLithography Interface Specification, 3D Systems 1989. Turk 1994, "The PLY polygon file format".
    """
    writers = {".stl": _write_stl, ".ply": _write_ply}
    if path.suffix not in writers:
        raise ValueError(f"{path}: is no file for a mesh; expected a name that ends in {' or '.join(writers)}")
    with replacing(path) as temporary, temporary.open("wb") as file:
        writers[path.suffix](mesh, file)


def _write_stl(mesh: Mesh, file: BinaryIO) -> None:
    """Each triangle with its normal and its three corners."""
    file.write(f"autoseg {COORDINATES}".encode().ljust(STL_HEADER_BYTES))
    file.write(len(mesh.triangles).to_bytes(4, "little"))
    for start in range(0, len(mesh.triangles), TRIANGLES_AT_ONCE):
        corners = mesh.points[mesh.triangles[start : start + TRIANGLES_AT_ONCE]]
        rows = np.zeros(len(corners), dtype=_STL_TRIANGLE)
        rows["normal"], rows["corners"] = _normals(corners), corners
        file.write(rows.tobytes())


def _normals(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit vectors (M, 3) to the outside of triangles (M, 3, 3); zero for a triangle without area."""
    crossed = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(crossed, axis=1, keepdims=True)
    normals = np.zeros_like(crossed)
    np.divide(crossed, lengths, out=normals, where=lengths > 0)
    return normals


def _write_ply(mesh: Mesh, file: BinaryIO) -> None:
    """All corners once, then each triangle by their positions."""
    header = (
        "ply", "format binary_little_endian 1.0", f"comment autoseg {COORDINATES}",
        f"element vertex {len(mesh.points)}", "property float x", "property float y", "property float z",
        f"element face {len(mesh.triangles)}", "property list uchar int vertex_indices", "end_header",
    )  # fmt: skip
    file.write(("\n".join(header) + "\n").encode())
    file.write(mesh.points.astype("<f4").tobytes())
    for start in range(0, len(mesh.triangles), TRIANGLES_AT_ONCE):
        corners = mesh.triangles[start : start + TRIANGLES_AT_ONCE]
        rows = np.empty(len(corners), dtype=_PLY_TRIANGLE)
        rows["count"], rows["corners"] = corners.shape[1], corners
        file.write(rows.tobytes())
