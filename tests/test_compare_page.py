"""The page of a comparison: complete, alone, drawn by a browser where there is one."""
import re
from dataclasses import replace

import pytest

from neuroflex.compare.measure import compare_network, subject_of
from neuroflex.compare.page import write_page
from neuroflex.compare.shapes import SHAPES
from neuroflex.compare.timelines import timelines_of
from neuroflex.config import PRESETS
from neuroflex.tb.browser import drawn, needs_browser

PLOTS = 2 + 10       # of all networks, of each network


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    config, shape = PRESETS["tiny"], replace(SHAPES["peer_10"], title="</script><b>x")
    subject = subject_of(shape, rows=16)
    comparison = compare_network(subject, config)
    path = tmp_path_factory.mktemp("page") / "sub" / "compare.html"
    return write_page({"one": comparison.result}, config, {"one": timelines_of(subject, config, comparison)}, path)


def test_page_is_complete_and_needs_no_network(page):
    text = page.read_text()
    for heading in ("Summary", "Energy-delay product, all cycles", "Energy-delay product, running", "What others report"):
        assert f"<h2>{heading}" in text
    for heading in ("energy-delay plane", "layers", "where the cycles go", "roofline", "energy by layer", "where the energy goes", "densities and split", "levels", "density histograms", "PE timelines"):
        assert f": {heading}</h2>" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"?(https?:)?//", text)
    assert text.count("Plotly.newPlot(") == PLOTS and 'name="viewport"' in text
    assert "Synthetic densities" in text and "cut to as little as" in text and "measured-sky130 (schedules)" in text and "pJ, literature-45nm" in text
    assert [path.name for path in page.parent.iterdir()] == ["compare.html"]


def test_titles_cannot_end_a_script(page):
    text = page.read_text()
    assert "</script><b>x" not in text and "&lt;/script&gt;&lt;b&gt;x" in text


@needs_browser
def test_browser_draws_every_plot_and_sorts_the_table(page, tmp_path):
    text = page.read_text()
    click = ("<script>addEventListener('load', () => { const t = document.querySelector('table.sortable');"
             "const c = () => [...t.tBodies[0].rows].map(r => r.cells[0].textContent).join();"
             "t.querySelectorAll('th')[2].click(); const down = c(); t.querySelectorAll('th')[2].click();"
             "document.title = down + ';' + c(); })</script></body>")
    copy = tmp_path / "copy.html"
    copy.write_text(text.replace("</body>", click))
    dom = drawn(copy, tmp_path / "profile")
    assert re.search(r"<title>(.*?)</title>", dom)[1] == "fc1,fc2;fc2,fc1"       # by inputs, 256 and 128
    assert len(re.findall(r'<div [^>]*class="[^"]*js-plotly-plot', dom)) == PLOTS
    bars = re.findall(r'<g class="point">', dom)
    assert len(re.findall(r'<g class="hm"><image [^>]*href="data:image/png', dom)) == 2 and ">level 1</text>" in dom and "share of channels</text>" in dom
    assert len(bars) >= 8 and dom.count('class="main-svg"') >= 2 * PLOTS
