"""PNG, TIFF and other 2D images: colours, bit depths, palettes."""

import struct

import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.reading import (
    read_image,
    read_label_map,
)
from autoseg.imaging.formats.volume import canonical_orientation
from autoseg.records.case import Orientation
from tests.imaging.formats.small_images import RNG


@pytest.mark.parametrize(
    ("mode", "name", "num_channels"),
    [("L", "x.png", 1), ("RGB", "x.png", 3), ("RGB", "x.bmp", 3), ("RGBA", "x.png", 3), ("LA", "x.png", 1),
     ("1", "x.png", 1), ("L", "x.tif", 1), ("I;16", "x.tiff", 1), ("I;16", "x.png", 1), ("F", "x.tif", 1)],
)  # fmt: skip
def test_pictures(tmp_path, mode: str, name: str, num_channels: int):
    bands = len(Image.new(mode, (1, 1)).getbands())
    high, dtype = {"1": (2, bool), "I;16": (60000, np.uint16), "F": (9, np.float32)}.get(mode, (256, np.uint8))
    pixels = RNG.integers(0, high, (7, 11, bands)).astype(dtype)
    Image.fromarray(pixels if bands > 1 else pixels[..., 0]).save(tmp_path / name)
    volume = read_image([tmp_path / name])
    assert volume.array.shape == (num_channels, 1, 7, 11)
    np.testing.assert_array_equal(volume.array[:, 0], np.moveaxis(pixels, -1, 0)[:num_channels])
    assert volume.grid.spacing == (999.0, 1.0, 1.0)
    assert canonical_orientation(volume.grid) == Orientation()
    assert any("alpha" in note for note in volume.notes) == (mode in ("RGBA", "LA"))


@pytest.mark.parametrize("name", ["x.png", "x.tif", "planar.tif"])
@pytest.mark.parametrize("num_channels", [3, 4])
def test_deep_colours_are_refused_not_cut(tmp_path, name: str, num_channels: int):
    pixels = RNG.integers(0, 60000, (7, 11, num_channels)).astype(np.uint16)
    if name == "planar.tif":
        planes = np.moveaxis(pixels, -1, 0)
        tifffile.imwrite(tmp_path / name, planes, photometric="rgb", planarconfig="separate")
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=True), str(tmp_path / name))
    for read in (lambda path: read_image([path]), read_label_map):
        with pytest.raises(ImageFileError, match=rf"{name}: 16 bits per colour .* 8 bits per colour"):
            read(tmp_path / name)


def test_16_bits_for_all_colours_together_are_read(tmp_path):
    """A BMP with 5 + 6 + 5 bits per pixel, bottom row first: red, green, blue, white."""
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    info = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0)
    pixels = struct.pack("<4H", 0xF800, 0x07E0, 0x001F, 0xFFFF)
    (tmp_path / "x.bmp").write_bytes(struct.pack("<2sIHHI", b"BM", 74, 0, 0, 66) + info + masks + pixels)
    colours = np.moveaxis(read_image([tmp_path / "x.bmp"]).array[:, 0], 0, -1)
    np.testing.assert_array_equal(colours, [[[0, 0, 255], [255, 255, 255]], [[255, 0, 0], [0, 255, 0]]])


def test_palette_pictures_are_colours_as_image_and_indices_as_label_map(tmp_path):
    indices = RNG.integers(0, 3, (7, 11)).astype(np.uint8)
    palette = [[10, 20, 30], [200, 0, 50], [0, 90, 255]]
    picture = Image.fromarray(indices)
    picture.putpalette(np.array(palette).ravel().tolist())
    picture.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "x.png").array[0, 0], indices)
    np.testing.assert_array_equal(
        read_image([tmp_path / "x.png"]).array[:, 0], np.array(palette)[indices].transpose(2, 0, 1)
    )


def test_colour_label_maps_need_equal_channels(tmp_path):
    grey = RNG.integers(0, 3, (7, 11)).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "grey.png").array[0, 0], grey)
    Image.fromarray(np.stack([grey, grey, grey + 1], axis=-1)).save(tmp_path / "colour.png")
    with pytest.raises(ImageFileError, match=r"colour\.png: .*label map has colours"):
        read_label_map(tmp_path / "colour.png")


def test_faulty_pictures_are_refused(tmp_path):
    pixels = RNG.integers(0, 256, (70, 110)).astype(np.uint8)
    for name in ("x.png", "x.jpg", "x.tif", "x.bmp"):
        path = tmp_path / name
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ImageFileError, match=name):
            read_image([path])
    pages = [Image.fromarray(pixels), Image.fromarray(pixels)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageFileError, match="2 pages"):
        read_image([tmp_path / "pages.tif"])
