import shutil
import zipfile

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.reading import read_image
from autoseg.imaging.formats.volume import is_sheared
from tests.dicom_builders import (
    COLUMNS,
    GEOMETRIES,
    IDENTITY,
    ROWS,
    SLICES,
    STEP,
    Series,
    change_files,
    pydicom,
    save,
)


def at(volume, worlds):
    """Values of the voxels at world positions (N, 3), which must be centres of voxels."""
    found = np.linalg.solve(np.array(volume.grid.affine), np.vstack([worlds.T, np.ones(len(worlds))]))[:3]
    assert np.abs(found - np.rint(found)).max() < 1e-3
    return volume.array[0][tuple(np.rint(found).astype(int))]


def assert_same_voxels(volume, series):
    assert volume.array.shape == (1, *series.stored.shape)
    assert volume.array.dtype == np.float32
    for index in range(len(series.stored)):
        values = at(volume, series.worlds(index).reshape(-1, 3))
        np.testing.assert_array_equal(values, series.value(index).astype(np.float32).ravel())


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_each_voxel_has_its_value_and_place(tmp_path, geometry, modality):
    series = Series(modality, geometry)
    volume = read_image([series.write(tmp_path / "a")])
    assert_same_voxels(volume, series)
    assert not is_sheared(volume.grid)
    assert np.linalg.det(np.array(volume.grid.affine)[:3, :3]) < 0  # (z, y, x) of a right-handed (x, y, z)
    assert volume.notes == ()


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_frames_of_one_file_are_put_in_order(tmp_path, geometry, modality):
    series = Series(modality, geometry)
    assert_same_voxels(read_image([series.write_enhanced(tmp_path / "a.dcm")]), series)


@pytest.mark.parametrize("geometry", ["axial", "coronal", "oblique", "prone"])
def test_grid_and_values_are_those_that_itk_reads(tmp_path, geometry):
    series = Series("CT", geometry)
    folder = series.write(tmp_path / "a")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    volume = read_image([folder])
    array = SimpleITK.GetArrayFromImage(image)
    np.testing.assert_array_equal(volume.array[0], array)
    corner = np.array(image.TransformIndexToPhysicalPoint((COLUMNS - 1, 2, SLICES - 1))) * [-1, -1, 1]
    np.testing.assert_allclose((np.array(volume.grid.affine) @ [SLICES - 1, 2, COLUMNS - 1, 1])[:3], corner, atol=1e-4)


def test_zip_archive_is_read_like_the_folder(tmp_path):
    series = Series("MR", "oblique")
    folder = series.write(tmp_path / "a")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "readme.txt").write_text("not an image")
    shutil.make_archive(str(tmp_path / "b"), "zip", tmp_path)
    volume = read_image([tmp_path / "b.zip"])
    assert_same_voxels(volume, series)
    assert volume.template.series is not None
    assert volume.template.series.path == tmp_path / "b.zip"


def test_names_in_an_archive_lead_nowhere(tmp_path):
    series = Series()
    folder = series.write(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"../../../outside/{path.name}")
    before = sorted(tmp_path.rglob("*"))
    assert_same_voxels(read_image([tmp_path / "b.zip"]), series)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no archive", "cannot be read as a zip archive"), (None, "no DICOM files")],
    ids=["damaged", "without DICOM"],
)
def test_archives_that_hold_no_series(tmp_path, content, message):
    path = tmp_path / "b.zip"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "text")
    else:
        path.write_bytes(content)
    with pytest.raises(ImageFileError, match=f"^{path}: .*{message}"):
        read_image([path])


def test_archive_that_unpacks_to_more_than_the_limit(tmp_path, monkeypatch):
    Series().write(tmp_path / "a")
    shutil.make_archive(str(tmp_path / "b"), "zip", tmp_path / "a")
    monkeypatch.setattr("autoseg.imaging.formats.dicom.sources.MAX_ZIP_BYTES", 1000)
    with pytest.raises(ImageFileError, match=r"unpacks to .* more than"):
        read_image([tmp_path / "b.zip"])


def test_missing_slices_are_listed_in_mm(tmp_path):
    folder = Series().write(tmp_path / "a", shuffled=False)
    (folder / "03_002.dcm").unlink()
    with pytest.raises(
        ImageFileError, match=r"equal distances of 2\.5 mm: 1 gaps .*42\.5 to 47\.5 mm \(5 mm\).*--resample-gaps"
    ):
        read_image([folder])


def test_gap_is_interpolated_on_request(tmp_path):
    stored = np.broadcast_to(100 * np.arange(SLICES)[:, None, None], (SLICES, ROWS, COLUMNS)).astype(np.uint16)
    series = Series(stored=stored)
    folder = series.write(tmp_path / "a", shuffled=False)
    (folder / "03_002.dcm").unlink()
    volume = read_image([tmp_path / "a#resample-gaps"])
    np.testing.assert_allclose(volume.array[0], stored - 1024.0, atol=1e-3)
    assert volume.grid.spacing == pytest.approx((STEP, 0.8, 1.25))
    assert "--resample-gaps" in volume.notes[0]


def test_slices_at_one_position_are_refused(tmp_path):
    series = Series()
    folder = series.write(tmp_path / "a", shuffled=False)
    double = series.data_set(3)
    double.SOPInstanceUID = double.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    save(double, folder / "x.dcm")
    with pytest.raises(ImageFileError, match=r"1 slices at the position of another one: 47\.5 mm"):
        read_image([folder])
    assert_same_voxels(read_image([tmp_path / "a#resample-gaps"]), series)


def test_rounded_positions_are_no_gaps(tmp_path):
    series = Series(step_mm=0.6667)
    folder = series.write(tmp_path / "a")

    def round_position(header):
        header.ImagePositionPatient = [f"{float(number):.2f}" for number in header.ImagePositionPatient]

    change_files(folder, round_position)
    assert read_image([folder]).grid.spacing[0] == pytest.approx(0.6667, abs=0.004)


def test_tilted_gantry_gives_an_upright_grid(tmp_path):
    series = Series(tilt=(0.0, 1.1))
    worlds = np.stack([series.worlds(index) for index in range(SLICES)])
    linear = 500 + 3 * worlds[..., 0] - 5 * worlds[..., 1] + 7 * worlds[..., 2]
    series.stored = np.rint(linear * 16).astype(np.uint16)
    folder = series.write(tmp_path / "a")
    volume = read_image([folder])
    assert not is_sheared(volume.grid)
    assert "tilted" in volume.notes[0]
    z, y, x = np.indices(volume.grid.shape)
    world = np.einsum("ij,jzyx->izyx", np.array(volume.grid.affine), np.stack([z, y, x, np.ones(z.shape)]))
    expected = np.rint((500 + 3 * world[0] - 5 * world[1] + 7 * world[2]) * 16) - 1024
    inside = volume.array[0] != -1024
    assert inside.sum() >= SLICES * ROWS * COLUMNS
    is_edge = ~np.roll(inside, 1, axis=1) | ~np.roll(inside, -1, axis=1)
    np.testing.assert_allclose(volume.array[0][inside & ~is_edge], expected[inside & ~is_edge], atol=2)


def two_series(folder):
    Series("CT", number=2).write(folder)
    Series("MR", number=5, geometry="coronal", series_uid="1.2.3.5").write(folder)
    return folder


def test_several_series_are_listed(tmp_path):
    folder = two_series(tmp_path / "a")
    with pytest.raises(
        ImageFileError, match=r"(?s)2 images; say which.*--series 2: CT, 5 slices of 7 x 9, axial.*--series 5: MR"
    ):
        read_image([folder])
    with pytest.raises(ImageFileError, match="no image is called --series 7"):
        read_image([tmp_path / "a#7"])


@pytest.mark.parametrize("name", ["5", "1.2.3.5"])
def test_series_by_number_or_uid(tmp_path, name):
    two_series(tmp_path / "a")
    assert_same_voxels(read_image([tmp_path / f"a#{name}"]), Series("MR", "coronal"))


def test_localizer_is_left_aside(tmp_path):
    series = Series()
    folder = series.write(tmp_path / "a")
    scout = Series(geometry="coronal", number=1, series_uid="1.2.3.6", stored=np.ones((4, 12, 6), np.uint16)).data_set()
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(scout, folder / "scout.dcm")
    volume = read_image([folder])
    assert_same_voxels(volume, series)
    assert "--series" in volume.notes[0]


def test_localizer_inside_the_series_is_left_aside(tmp_path):
    series = Series()
    folder = series.write(tmp_path / "a")
    scout = Series(geometry="sagittal", stored=np.ones((4, 12, 6), np.uint16)).data_set()
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = "1.2.3.7"
    save(scout, folder / "scout.dcm")
    assert_same_voxels(read_image([folder]), series)


def test_echoes_of_one_series_are_told_apart(tmp_path):
    first, second = Series("MR"), Series("MR", stored=np.full((SLICES, ROWS, COLUMNS), 9, np.uint16))
    first.write(tmp_path / "a", shuffled=False)
    for index in range(SLICES):
        header = second.data_set(index)
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{index}"
        header.EchoTime = "80"
        save(header, tmp_path / "a" / f"second_{index}.dcm")
    with pytest.raises(ImageFileError, match=r"(?s)--series 3-1: .*EchoTime none.*--series 3-2: .*EchoTime 80"):
        read_image([tmp_path / "a"])
    assert_same_voxels(read_image([tmp_path / "a#3-1"]), first)


def test_padding_is_air(tmp_path):
    stored = np.random.default_rng(3).integers(-900, 900, (SLICES, ROWS, COLUMNS)).astype(np.int16)
    stored[:, :2] = -2000
    folder = Series(stored=stored).write(tmp_path / "a")

    def pad(header):
        header.add_new("PixelPaddingValue", "SS", -2000)

    change_files(folder, pad)
    volume = read_image([folder])
    assert volume.array.min() >= -1924
    worlds = Series(stored=stored).worlds(2)[:2].reshape(-1, 3)
    assert set(at(volume, worlds)) == {-1024.0}


def test_padding_of_mr_is_the_lowest_intensity_inside(tmp_path):
    stored = np.random.default_rng(3).integers(100, 900, (SLICES, ROWS, COLUMNS)).astype(np.uint16)
    stored[:, :2] = 65535
    folder = Series("MR", stored=stored).write(tmp_path / "a")
    change_files(folder, lambda header: header.add_new("PixelPaddingValue", "US", 65535))
    volume = read_image([folder])
    assert volume.array.max() <= 1800
    assert volume.array.min() == 2 * stored[:, 2:].min()


def test_low_bits_mean_bright_ones_in_monochrome1(tmp_path):
    series = Series("MR")
    series.stored %= 4096
    folder = series.write(tmp_path / "a")

    def invert(header):
        values = 4095 - header.pixel_array
        header.PhotometricInterpretation, header.BitsStored, header.HighBit = "MONOCHROME1", 12, 11
        header.PixelData = values.astype(np.uint16).tobytes()

    change_files(folder, invert)
    assert_same_voxels(read_image([folder]), series)


def test_hounsfield_units_do_not_depend_on_how_they_are_displayed(tmp_path):
    series = Series("CT")
    folder = series.write(tmp_path / "a")
    change_files(folder, lambda header: setattr(header, "PhotometricInterpretation", "MONOCHROME1"))
    assert_same_voxels(read_image([folder]), series)


def test_twelve_bits_with_a_sign(tmp_path):
    stored = np.random.default_rng(3).integers(-2048, 2047, (SLICES, ROWS, COLUMNS)).astype(np.int16)
    series = Series(stored=stored)
    folder = series.write(tmp_path / "a")

    def shorten(header):
        header.BitsStored, header.HighBit = 12, 11
        header.PixelData = (header.pixel_array.astype(np.uint16) & 0x0FFF).tobytes()

    change_files(folder, shorten)
    assert_same_voxels(read_image([folder]), series)


def test_table_of_intensities(tmp_path):
    series = Series("MR")
    series.stored %= 256
    folder = series.write(tmp_path / "a")
    table = (np.arange(256)[::-1] * 3).astype(np.uint16)

    def add_table(header):
        del header.RescaleSlope, header.RescaleIntercept
        item = pydicom.Dataset()
        item.LUTDescriptor, item.ModalityLUTType = [256, 0, 16], "US"
        item.add_new("LUTData", "OW", table.tobytes())
        header.ModalityLUTSequence = [item]

    change_files(folder, add_table)
    volume = read_image([folder])
    np.testing.assert_array_equal(at(volume, series.worlds(1).reshape(-1, 3)), table[series.stored[1]].ravel())


@pytest.mark.parametrize("syntax", ["JPEG2000Lossless", "RLELossless", "JPEGLSLossless"])
def test_compressed_files(tmp_path, syntax):
    series = Series(stored=np.random.default_rng(5).integers(0, 2000, (3, 64, 72)).astype(np.uint16))
    folder = series.write(tmp_path / "a")
    uid = getattr(pydicom.uid, syntax)
    change_files(folder, lambda header: header.compress(uid, generate_instance_uid=False))
    assert_same_voxels(read_image([folder]), series)


def test_files_without_endings_and_other_objects_beside_them(tmp_path):
    series = Series()
    folder = series.write(tmp_path / "a" / "study")
    for path in folder.iterdir():
        path.rename(path.with_suffix(""))
    report = Series(series_uid="1.2.77").data_set()
    for key in ("Rows", "Columns", "PixelData"):
        delattr(report, key)
    report.Modality = "SR"
    save(report, tmp_path / "a" / "report")
    assert_same_voxels(read_image([tmp_path / "a"]), series)


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("ImagePositionPatient", None, "have no place in the patient"),
        ("PixelSpacing", None, "have no voxel size"),
        ("PixelSpacing", [0, 1], "have no voxel size"),
        ("PixelSpacing", [5000, 1], "the header gives voxels of"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "cannot be read as DICOM"),
        ("BitsAllocated", 13, "the voxels cannot be read"),
        ("Rows", 700, "the voxels cannot be read"),
    ],
)
def test_headers_that_make_no_image(tmp_path, keyword, value, message):
    folder = Series().write(tmp_path / "a")

    def change(header):
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)

    change_files(folder, change)
    with pytest.raises(ImageFileError, match=f"^{tmp_path}.*{message}") as error:
        read_image([folder])
    assert IDENTITY not in str(error.value)


def test_truncated_file(tmp_path):
    folder = Series().write(tmp_path / "a")
    path = min(folder.iterdir())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ImageFileError, match=f"^{path}: the voxels cannot be read"):
        read_image([folder])


def test_missing_folder_and_empty_folder(tmp_path):
    with pytest.raises(ImageFileError, match="no such file or folder"):
        read_image([tmp_path / "none.dcm"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageFileError, match="found no DICOM files; expected a series of CT, MR or PET"):
        read_image([tmp_path / "empty"])


def test_identity_stays_out_of_what_is_kept(tmp_path):
    volume = read_image([Series().write(tmp_path / "a")])
    assert "Secret" not in repr(volume.template)


def test_samples_of_pydicom_are_read_or_refused(recwarn):
    from pydicom.data import get_testdata_file, get_testdata_files

    read = {"CT_small.dcm": (1, 1, 128, 128), "MR_small.dcm": (1, 1, 64, 64), "MR_small_RLE.dcm": (1, 1, 64, 64)}
    for name, shape in read.items():
        assert read_image([get_testdata_file(name)]).array.shape == shape
    refused = {
        "rtplan.dcm": "other DICOM files: 1 RTPLAN",
        "liver_1frame.dcm": "other DICOM files: 1 SEG",
        "rtdose.dcm": "other DICOM files: 1 RTDOSE",
        "MR_truncated.dcm": "the voxels cannot be read",
        "SC_rgb_jpeg.dcm": "no place in the patient",
        "no_meta.dcm": "no DICOM files",
    }
    for name, message in refused.items():
        with pytest.raises(ImageFileError, match=message):
            read_image([get_testdata_file(name)])
    assert len(get_testdata_files()) > 50
