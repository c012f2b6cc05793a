"""2D images (.png, .jpg, .bmp, .tif), grey or colour, and TIFF stacks, through Pillow. They have no position in space.

A grey pixel is the number that the file stores, at every depth and for images and label maps alike: TIFF files marked
WhiteIsZero are not inverted, and samples of 1, 2 and 4 bits are not spread over 0 to 255. A palette gives its colours
in an image, and its indices in a label map, but for datasets of colour masks.
"""

import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.label_values import WHITE_IS_ZERO_NOTE
from autoseg.imaging.formats.tiff_stacks import measure_stack, refuse_missing_pages
from autoseg.imaging.formats.volume import AnyArray, Template, Volume, canonical_affine, make_grid, split_ending

PICTURE_SLICE_SPACING_MM = 999.0
"""Slice spacing of a 2D image, whose pixels count as 1 mm, so that plans put the slice axis first.

References:
    nnU-Net v2 (Isensee et al. 2021), reader of natural 2D images: spacing (999, 1, 1).
"""

_EXIF_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0

_SAMPLE_FORM = re.compile(r"(?P<mode>1|L)(;(?P<bits>[24])?(?P<inverted>I)?R?)?")
"""Pillow's name for the samples of a file with 1 to 8 bits: `L;4I` are four bits, inverted; R reverses the bits."""

_SAMPLE_FACTORS = {"2": 85, "4": 17}
"""Factor by which Pillow spreads samples of 2 and 4 bits over 0 to 255."""

_GREY_MODES = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, OverflowError, zlib.error, struct.error
)  # fmt: skip
"""Errors by which Pillow says that a file is damaged, where tags are missing or say what cannot be."""


def read_picture(path: Path, *, with_palette: bool) -> Volume:
    """Read one 2D image, or a TIFF whose pages are slices; grey gives one channel, colour three; alpha is ignored.

    Args:
        path: The image file.
        with_palette: Whether pixels with a palette are its colours; else they are the indices, one channel.

    Returns:
        Volume already in canonical orientation: Z = 1 and spacing (999, 1, 1) for a 2D image; one slice for each page
        of a stack, see `tiff_stacks`.

    Raises:
        ImageFileError: If the file is missing, truncated, damaged, has 16 bits per colour, or pages that are not the
            slices of a volume.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                if isinstance(picture, TiffImagePlugin.TiffImageFile):
                    refuse_missing_pages(picture, path)
                    if picture.n_frames > 1:
                        return _read_stack(picture, path, with_palette=with_palette)
                _refuse_pages(picture, path)
                _refuse_deep_colours(picture, path)
                array, notes = _pixels(picture, with_palette=with_palette)
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"{path}: the image is too large: {error}. Cut it into pieces.") from error
    except DAMAGE as error:
        raise ImageFileError(f"{path}: cannot be read as a 2D image, it may be damaged: {error}") from error
    spacing = (PICTURE_SLICE_SPACING_MM, 1.0, 1.0)
    grid = make_grid(array.shape[1:], spacing, canonical_affine(spacing))
    template = Template(ending=split_ending(path.name)[1], grid=grid, file_dimensions=2)
    return Volume(array=array, grid=grid, template=template, notes=tuple(notes), path=path)


def _read_stack(picture: TiffImagePlugin.TiffImageFile, path: Path, *, with_palette: bool) -> Volume:
    """A volume of the pages of a TIFF."""
    size = measure_stack(picture, path)
    pages: list[AnyArray] = []
    notes: list[str] = [*size.notes]
    for number in range(picture.n_frames):
        picture.seek(number)
        _refuse_deep_colours(picture, path)
        page, of_page = _pixels(picture, with_palette=with_palette)
        if pages and (page.shape != pages[0].shape or page.dtype != pages[0].dtype):
            raise ImageFileError(
                f"{path}: page {number + 1} has {_describe_page(page)}, the first one {_describe_page(pages[0])}; the "
                "pages of a volume are alike. Save each image of the file (such as a preview) on its own"
            )
        pages.append(page)
        notes += of_page
    array = np.concatenate(pages, axis=1)
    spacing = size.spacing or (1.0, 1.0, 1.0)
    grid = make_grid(array.shape[1:], spacing, canonical_affine(spacing))
    template = Template(ending=split_ending(path.name)[1], grid=grid)
    unique = tuple(dict.fromkeys(notes))
    return Volume(array, grid, template, unique, path, has_voxel_size=size.spacing is not None)


def _describe_page(page: AnyArray) -> str:
    channels, _, height, width = page.shape
    return f"{width} x {height} pixels, {channels} channel(s) of {page.dtype}"


def _refuse_pages(picture: Image.Image, path: Path) -> None:
    pages = getattr(picture, "n_frames", 1)
    if pages > 1:
        raise ImageFileError(
            f"{path}: it has {pages} pages; save stacks in a format with spacing, such as .nii.gz or .nrrd"
        )


def _refuse_deep_colours(picture: ImageFile.ImageFile, path: Path) -> None:
    """Pillow reduces colours of 16 bits to 8 without a warning; the file's own depth is known only before decoding."""
    if picture.mode in _GREY_MODES:
        return
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        is_deep = max(picture.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (1,))) > 8
    else:
        # Only PNG: in BMP, 16 bits are those of all three colours together.
        is_deep = picture.format == "PNG" and any(";16" in str(tile.args) for tile in picture.tile)
    if is_deep:
        raise ImageFileError(
            f"{path}: 16 bits per colour (or grey with alpha) cannot be read in full. Save it with 8 bits per "
            "colour, or each channel as a separate 16-bit grey image."
        )


def _pixels(picture: ImageFile.ImageFile, *, with_palette: bool) -> tuple[AnyArray, list[str]]:
    """Pixels, (C, 1, Y, X), and notes."""
    form = _sample_form(picture)  # before the EXIF data, which decodes the pixels
    notes = []
    if picture.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        notes.append("the EXIF rotation of the image was not applied: pixels are used as they are stored")
    if picture.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        notes.append("the alpha channel was ignored")
    if isinstance(picture, TiffImagePlugin.TiffImageFile) and picture.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        notes.append(WHITE_IS_ZERO_NOTE)
    pixels = np.asarray(_without_alpha(picture, with_palette=with_palette))
    if pixels.ndim == 2:
        return _stored_numbers(pixels, form)[np.newaxis, np.newaxis], notes
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)[:, np.newaxis]), notes


def _sample_form(picture: ImageFile.ImageFile) -> str:
    """Pillow's name for the samples as the file stores them; known only before decoding."""
    arguments = picture.tile[0].args if picture.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _stored_numbers(pixels: AnyArray, form: str) -> AnyArray:
    """Undo what Pillow does to samples of up to 8 bits when it decodes them.

    Args:
        pixels: Decoded pixels, (Y, X).
        form: Result of `_sample_form`.
    """
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    samples = _SAMPLE_FORM.fullmatch(form)
    if samples is None:
        return pixels
    if samples["inverted"]:
        pixels = (1 if samples["mode"] == "1" else 255) - pixels
    return pixels // _SAMPLE_FACTORS[samples["bits"]] if samples["bits"] else pixels


def _without_alpha(picture: Image.Image, *, with_palette: bool) -> Image.Image:
    if picture.mode in _GREY_MODES or picture.mode == "RGB" or (picture.mode == "P" and not with_palette):
        return picture
    if picture.mode in ("LA", "La"):
        return picture.getchannel(0)
    if picture.mode == "PA" and not with_palette:
        return picture.getchannel(0)
    if picture.mode == "RGBA":
        # Not convert("RGB"): the colour under transparent pixels must stay as stored.
        return Image.merge("RGB", picture.split()[:3])
    return picture.convert("RGB")
