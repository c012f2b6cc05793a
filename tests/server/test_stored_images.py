"""Stored images: named by clients or by the server, replaced, bounded, and gone after a time."""

import time

import pytest

from autoseg.server import stored_images
from autoseg.server.stored_images import StoredImages


def store(images, name=None):
    folder = images.make_folder()
    path = folder / "image_0000.nii.gz"
    path.write_bytes(b"secret")
    return images.add((path,), name)


def test_a_name_of_a_client_is_no_path(tmp_path):
    images = StoredImages(tmp_path, 100)
    image = store(images, "../../etc/passwd")
    assert image.folder.parent == tmp_path
    assert images.find("../../etc/passwd") == image
    assert images.remove("../../etc/passwd") == image
    assert (images.find("../../etc/passwd"), list(tmp_path.iterdir())) == (None, [])
    assert images.remove("unknown") is None


def test_an_image_of_the_same_name_replaces_the_earlier(tmp_path):
    images = StoredImages(tmp_path, 100)
    first, second, session = store(images, "a"), store(images, "a"), store(images)
    assert not first.folder.exists()
    assert images.find("a") == second
    assert images.listed() == [second]
    assert images.find(session.id) == session


def test_images_are_bounded_and_expire(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_images, "MAX_IMAGES", 2)
    images = StoredImages(tmp_path, 100)
    kept = [store(images, name) for name in "abc"]
    assert [image.folder.exists() for image in kept] == [False, True, True]
    short = StoredImages(tmp_path, 0.05)
    image = store(short, "x")
    time.sleep(0.1)
    assert short.find("x") is None
    assert not image.folder.exists()


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 10000])
def test_any_text_is_a_name(tmp_path, name):
    images = StoredImages(tmp_path, 100)
    assert images.find(store(images, name).id) is not None
