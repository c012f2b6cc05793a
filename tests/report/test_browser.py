"""The page in a real browser, headless Chromium: no error, every picture loads, nothing sticks out, scripts work.

A probe is put into a copy of the page. The copy lies in a frame of the wanted width, since the browser's own window
cannot be as narrow as a phone, and its findings come back as text in the dumped page.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from autoseg.report.page.render import render_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)"),
]

LISTENER = """<script>
window.faults = [];
window.addEventListener("error", (event) => faults.push(String(event.message || event.target.outerHTML)), true);
window.addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => faults.push(words.join(" "));
</script>"""

PROBE = """<script>
window.addEventListener("load", () => {
  const column = (table, place) => Array.from(table.tBodies[0].rows, (row) => row.cells[place].textContent);
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  const table = document.querySelector("table.sorted");
  const header = table.tHead.rows[0].cells[1];
  header.click();
  const rising = column(table, 1);
  header.click();
  const stack = document.querySelector(".stack");
  const before = [stack.querySelector("img").style.top, stack.querySelector(".reference").innerHTML];
  stack.querySelector("input").value = 0;
  stack.querySelector("input").dispatchEvent(new Event("input"));
  const wide = Array.from(document.querySelectorAll("main *")).filter((one) =>
    !one.closest(".wide, .chart, .frame, pre, code") && one.getBoundingClientRect().right > innerWidth + 1);
  parent.postMessage({
    faults: window.faults,
    pictures: Array.from(document.images, (image) => image.naturalWidth),
    unnamed: Array.from(document.images).filter((image) => !image.alt).length,
    fetched: performance.getEntriesByType("resource").map((one) => one.name).filter((name) => !/^data:/.test(name)),
    overflow: document.documentElement.scrollWidth - innerWidth,
    wide: wide.map((one) => one.outerHTML.slice(0, 80)),
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    empty: Array.from(document.querySelectorAll("section")).filter((one) => one.offsetHeight < 60).length,
    rising: rising,
    falling: column(table, 1),
    slider: [before, [stack.querySelector("img").style.top, stack.querySelector(".reference").innerHTML]],
  }, "*");
});
</script>"""

HARNESS = """<!doctype html><meta charset="utf-8"><pre id="findings"></pre><script>
window.addEventListener("message", (event) => {
  document.getElementById("findings").textContent = JSON.stringify(event.data);
});
</script><iframe src="copy.html" style="border: 0; width: %dpx; height: 900px"></iframe>"""


def look(page: Path, folder: Path, width: int, *, dark: bool):
    """What the probe finds."""
    assert CHROMIUM is not None
    folder.mkdir()
    text = page.read_text(encoding="utf-8")
    probed = text.replace("<head>", "<head>" + LISTENER).replace("</body>", PROBE + "</body>")
    (folder / "copy.html").write_text(probed, encoding="utf-8")
    (folder / "harness.html").write_text(HARNESS % width, encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=20000",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        "--dump-dom", (folder / "harness.html").as_uri(),
    ]  # fmt: skip
    dump = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    found = re.search(r'<pre id="findings">(.*?)</pre>', dump, re.DOTALL)
    assert found is not None
    assert found[1], "the probe did not answer"
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_the_page_works_in_a_browser(selected, tmp_path, width, dark):
    findings = look(render_report(selected), tmp_path / "browser", width, dark=dark)
    assert findings["faults"] == []
    assert findings["fetched"] == []
    assert len(findings["pictures"]) == 10
    assert min(findings["pictures"]) > 0
    assert findings["unnamed"] == 0
    assert findings["overflow"] <= 0
    assert findings["wide"] == []
    assert findings["empty"] == 0
    assert findings["rising"] == sorted(findings["rising"])
    assert findings["falling"] == findings["rising"][::-1]
    assert len(set(findings["rising"])) > 1
    before, after = findings["slider"]
    assert after[0] == "0%"
    assert before[0] != after[0]
    assert before[1] != after[1]
    paper, ink = (sum(map(int, re.findall(r"\d+", findings[key])[:3])) for key in ("paper", "ink"))
    assert (paper < 150 < ink) if dark else (ink < 150 < paper)
