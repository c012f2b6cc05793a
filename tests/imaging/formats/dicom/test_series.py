import numpy as np
import pytest

from autoseg.imaging.formats.reading import read_image
from tests.dicom_builders import COLUMNS, ROWS, SLICES, Series


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.0, 1.1), (-2.0, 0.4)])
def test_slices_are_found_again_on_the_grid(tmp_path, tilt):
    volume = read_image([Series(tilt=tilt, geometry="oblique").write(tmp_path / "a")])
    slices = np.random.default_rng(1).integers(0, 9, (SLICES, ROWS, COLUMNS)).astype(np.uint8)
    assert volume.template.series is not None
    on_grid = volume.template.series.put_slices(slices, volume.grid)
    assert on_grid.shape == volume.grid.shape
    np.testing.assert_array_equal(volume.template.series.slices_of(on_grid), slices)


def test_slices_beside_a_gap_are_those_of_the_files(tmp_path):
    folder = Series().write(tmp_path / "a", shuffled=False)
    (folder / "03_002.dcm").unlink()
    volume = read_image([tmp_path / "a#resample-gaps"])
    assert volume.template.series is not None
    layers = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None], volume.grid.shape)
    assert volume.template.series.slices_of(layers)[:, 0, 0].tolist() == [0, 1, 3, 4]
