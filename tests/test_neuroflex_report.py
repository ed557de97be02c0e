"""The report: one file, complete, safe whatever a network is called."""
import json
import re
import struct
import zlib

import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import StallCause
from neuroflex.report import Report, png, write_report
from neuroflex.tb.browser import drawn, needs_browser

KEYS = {"network", "configuration", "seed", "images", "accuracy_relu", "accuracy_float", "accuracy_integer", "model_cycles", "rtl_cycles", "cycle_mismatches",
        "value_mismatches", "utilisation", "edp"}


@pytest.fixture
def report():
    rng = np.random.default_rng(1)
    columns = {"delay": rng.uniform(1, 9, (2, 5)), "energy": rng.uniform(1, 9, (2, 5)), "core": np.array([0, 1, 0, 1, 0]),
               "spiking": np.array([1, 1, 0, 1, 1], bool)}
    summary = dict.fromkeys(KEYS, 1) | {"network": "</script><b>x", "configuration": "tiny", "utilisation": {"ann": 0.5, "snn": 0.25},
                                        "edp": dict.fromkeys(("hybrid", "all_ann", "all_snn", "layerwise", "random"), 2.0)}
    timeline = {key: np.array(value) for key, value in
                {"core": [0, 1], "pe": [0, 1], "start": [3, 5], "end": [9, 8], "layer": [0, 1]}.items()}
    return Report(summary=summary, config=PRESETS["tiny"], columns={"</script>one": columns}, layers=["</script>one", "two"],
                  sums=np.ones((2, len(StallCause) + 2)), timeline=timeline, samples=[(np.arange(64).reshape(1, 8, 8), 3, 3)])


def test_files_are_complete_and_need_no_network(report, tmp_path):
    as_json, as_html = write_report(report, tmp_path)
    assert json.loads(as_json.read_text()) == report.summary
    text = as_html.read_text()
    for heading in ("Summary", "Answers", "Columns and the split", "Energy-delay product", "PE timelines", "Utilisation by layer", "Where the"):
        assert f"<h2>{heading}" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"?(https?:)?//", text)
    assert text.count("Plotly.newPlot(") >= 5 and 'name="viewport"' in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


@needs_browser
def test_browser_draws_every_plot(report, tmp_path):
    _, page = write_report(report, tmp_path)
    dom = drawn(page, tmp_path / "profile")
    plots = page.read_text().count("Plotly.newPlot(")
    assert len(re.findall(r'<div [^>]*class="[^"]*js-plotly-plot', dom)) == plots >= 5
    assert dom.count('class="main-svg"') >= 2 * plots


def test_accuracy_of_a_network_of_your_own_may_be_unknown(report, tmp_path):
    report.summary["accuracy_float"] = None
    assert "(with QCFS in real numbers unknown, with ReLU 100.0 %)" in write_report(report, tmp_path)[1].read_text()


def test_names_cannot_end_a_script(report, tmp_path):
    text = write_report(report, tmp_path)[1].read_text()
    assert "</script>one" not in text and "</script><b>x" not in text


def test_png_holds_the_image():
    image = np.array([[[0, 8], [16, 4]]])
    data = png(image)
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    assert (width, height, depth, colour) == (2, 2, 8, 0)
    at = data.index(b"IDAT")
    size = struct.unpack(">I", data[at - 4:at])[0]
    assert zlib.decompress(data[at + 4:at + 4 + size]) == bytes([0, 0, 127, 0, 255, 63])
