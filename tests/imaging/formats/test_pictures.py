"""PNG, TIFF and other 2D images: colours, bit depths, palettes."""

import struct
import zlib

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


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("photometric", ["miniswhite", "minisblack"])
def test_tiff_pixels_are_the_stored_numbers_whatever_is_shown_white(tmp_path, dtype, compression, photometric: str):
    numbers = RNG.integers(0, 3, (7, 11)).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", numbers, photometric=photometric, compression=compression)
    for volume in (read_label_map(tmp_path / "x.tif"), read_image([tmp_path / "x.tif"])):
        np.testing.assert_array_equal(volume.array[0, 0], numbers)
        assert ["WhiteIsZero" in note for note in volume.notes] == [True] * (photometric == "miniswhite")


def grey_png(numbers: np.ndarray, bits: int) -> bytes:
    """A grey PNG with few bits per pixel, which Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = numbers.shape
    rows = ["".join(f"{number:0{bits}b}" for number in row) for row in numbers]
    packed = [b"\0" + int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows]
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(packed))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_few_bits_per_pixel_are_the_stored_numbers(tmp_path, bits: int):
    numbers = RNG.integers(0, 2**bits, (7, 11))
    (tmp_path / "x.png").write_bytes(grey_png(numbers, bits))
    np.testing.assert_array_equal(read_label_map(tmp_path / "x.png").array[0, 0], numbers)
    np.testing.assert_array_equal(read_image([tmp_path / "x.png"]).array[0, 0], numbers)


def test_colour_masks_are_named_with_their_colours(tmp_path):
    colours = np.zeros((7, 11, 3), np.uint8)
    colours[1:3, 2:5], colours[4, :4] = (255, 0, 0), (0, 128, 64)
    Image.fromarray(colours).save(tmp_path / "c.png")
    volume = SimpleITK.GetImageFromArray(colours[np.newaxis], isVector=True)
    SimpleITK.WriteImage(volume, str(tmp_path / "c.nrrd"))
    found = r"3 colours .*: \(0, 0, 0\) in 67, \(255, 0, 0\) in 6, \(0, 128, 64\) in 4\. Say .* --label-colors"
    for name in ("c.png", "c.nrrd"):
        with pytest.raises(ImageFileError, match=rf"{name}: .*is a colour mask.*{found}") as caught:
            read_label_map(tmp_path / name)
        assert "damaged" not in str(caught.value)


def test_grey_stored_as_colours_is_a_label_map_in_every_format(tmp_path):
    grey = RNG.integers(0, 3, (5, 7, 11)).astype(np.uint8)
    image = SimpleITK.GetImageFromArray(np.stack([grey] * 3, axis=-1), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / "x.nrrd"))
    np.testing.assert_array_equal(read_label_map(tmp_path / "x.nrrd").array[0], grey)


def test_colour_label_maps_need_equal_channels(tmp_path):
    grey = RNG.integers(0, 3, (7, 11)).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "grey.png").array[0, 0], grey)
    Image.fromarray(np.stack([grey, grey, grey + 1], axis=-1)).save(tmp_path / "colour.png")
    with pytest.raises(ImageFileError, match=r"colour\.png: .*is a colour mask"):
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
    pages[0].save(tmp_path / "pages.png", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageFileError, match="2 pages"):
        read_image([tmp_path / "pages.png"])
