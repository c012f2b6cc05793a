"""The page in headless Chromium: an image is sent, its slices are shown, nothing comes from elsewhere."""

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from tests.builders import make_image, write_nifti
from tests.server.browser import CHROMIUM, open_browser
from tests.server.served import make_predictors, serve_predictors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)"),
]

TOKEN = "a-token-of-this-server"


@pytest.fixture
def served(tmp_path):
    (tmp_path / "uploads").mkdir()
    predictors = make_predictors(tmp_path / "model")
    with serve_predictors(predictors, tmp_path / "uploads", token=TOKEN) as client:
        yield client


def pixels_of(page):
    return np.asarray(Image.open(io.BytesIO(page.picture())).convert("RGB"))


def test_an_image_is_sent_shown_and_removed(served, tmp_path):
    image = write_nifti(make_image(), tmp_path / "patient.nii.gz")
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(image.read_bytes()[:3000])
    with open_browser(tmp_path / "profile") as page:
        page.open(served.url)
        page.wait_for("!document.getElementById('token-form').hidden")
        page.faults.clear()  # the browser notes that the server answered 401
        page.value(f"document.getElementById('token').value = '{TOKEN}'")
        page.value("document.querySelector('#token-form button').click()")
        page.wait_for("document.getElementById('model').options.length === 1")
        page.choose_files("#files", image)
        page.wait_for("document.getElementById('slice').naturalWidth > 0 && !document.getElementById('view').hidden")
        assert page.value("document.querySelectorAll('#statistics tbody tr').length") == 2
        assert "Done in" in page.value("document.getElementById('message').textContent")
        assert len(np.unique(pixels_of(page).reshape(-1, 3), axis=0)) > 100
        before = page.value("document.getElementById('slice').src")
        page.value("(() => { const a = document.getElementById('axis'); a.value = '2';"
                   " a.dispatchEvent(new Event('change')); })()")  # fmt: skip
        page.wait_for(f"document.getElementById('slice').src !== '{before}'")
        assert page.value("document.getElementById('index').max") == "25"
        assert page.value("document.documentElement.scrollWidth - innerWidth") <= 0
        page.value("document.getElementById('remove').click()")
        page.wait_for("document.getElementById('message').textContent.includes('were removed')")
        assert page.value("document.getElementById('view').hidden")
        assert [path for path in (tmp_path / "uploads").iterdir() if path.is_dir()] == []
        assert page.faults == []
        page.choose_files("#files", broken)
        page.wait_for("document.getElementById('message').classList.contains('error')")
        assert "truncated or damaged" in page.value("document.getElementById('message').textContent")
        assert all(url.startswith((served.url, "blob:", "data:", "about:")) for url in page.requests)
