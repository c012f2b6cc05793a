"""Every folder of the battery that autoseg understands is recognised as stated."""

import pytest

from tests.layouts.folders import IMAGE, LABEL, Layout, build, check_recognised
from tests.layouts.recognised import LAYOUTS, ONE_FOLDER, TWO_FOLDERS


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_is_recognised(tmp_path, name):
    layout = LAYOUTS[name]
    check_recognised(build(tmp_path / "my data", layout.files()), layout)


def test_names_are_compared_by_what_they_look_like(tmp_path):
    """Accents as one character in the images and as two in the label maps, as macOS stores them."""
    folder = build(tmp_path, {"images/M\u00fcnchen.nii.gz": IMAGE, "labels/Mu\u0308nchen.nii.gz": LABEL})
    check_recognised(folder, Layout(("images/{}.nii.gz",), "labels/Mu\u0308nchen.nii.gz", cases=("M\u00fcnchen",)))


def test_links_are_followed(tmp_path):
    """Files that are links, and a folder that is one."""
    layout = TWO_FOLDERS["images and labels"]
    store = build(tmp_path / "store", layout.files())
    (tmp_path / "files" / "images").mkdir(parents=True)
    for path in (store / "images").iterdir():
        (tmp_path / "files" / "images" / path.name).symlink_to(path)
    (tmp_path / "files" / "labels").symlink_to(store / "labels")
    (tmp_path / "link").symlink_to(tmp_path / "files")
    check_recognised(tmp_path / "files", layout)
    check_recognised(tmp_path / "link", layout)


def test_a_folder_that_cannot_be_written_is_read(tmp_path):
    layout = ONE_FOLDER["X and X_seg"]
    folder = build(tmp_path / "data", layout.files())
    folder.chmod(0o555)
    before = sorted(folder.iterdir())
    try:
        check_recognised(folder, layout)
    finally:
        folder.chmod(0o755)
    assert sorted(folder.iterdir()) == before
