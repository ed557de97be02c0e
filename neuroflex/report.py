"""The report of a run: ``report.json`` with the figures, ``report.html`` with the pictures, one file that needs no network."""
import base64
import html
import json
import os
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Report", "page", "plot", "png", "write_report"]

_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5a6675; --line: #dde3ea; --good: #00694c; --bad: #b00020; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #f5f7f9; }
main { max-width: 1080px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.6rem; margin: 8px 0 0; } h2 { font-size: 1.15rem; margin: 0 0 4px; } h3 { font-size: 1rem; margin: 12px 0 0; }
p { margin: 4px 0 12px; color: var(--soft); }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 16px; margin: 16px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); gap: 10px; }
.tiles div { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; }
.tiles b { display: block; font-size: 1.35rem; line-height: 1.25; } .tiles span { color: var(--soft); font-size: .85rem; }
.good b { color: var(--good); } .bad b { color: var(--bad); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 4px 16px; }
.plots > div { min-width: 0; }
.digits { display: flex; flex-wrap: wrap; gap: 12px; } .digits figure { margin: 0; text-align: center; font-size: .85rem; }
.digits img { width: 72px; height: 72px; image-rendering: pixelated; border: 1px solid var(--line); border-radius: 6px; display: block; }
.plotly-graph-div { width: 100%; }
"""
# Plots are drawn while the page is still growing; the last widths are known when it is complete.
_SETTLE = "<script>addEventListener('load', () => dispatchEvent(new Event('resize')))</script>"


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What a run found.

    Attributes
    ----------
    summary : dict
        The content of ``report.json``.
    config : ArchConfig
    columns : dict
        Layer name → see :func:`neuroflex.figures.columns_figure`.
    layers : list of str
        Name of each descriptor's layer.
    sums : float64[descriptors, causes + 2]
        Cycles by cause and matches of the two cores, per image, measured on RTL.
    timeline : dict
        Of the first image, from :func:`neuroflex.flow.timeline`.
    samples : list of (image, label, answer)
        Raw images (C, H, W), uint8.
    """

    summary: dict
    config: object
    columns: dict
    layers: list
    sums: np.ndarray
    timeline: dict
    samples: list


def png(image):
    """A grey or RGB image, uint8 (1 or 3, H, W) of any range, as PNG bytes; the brightest value becomes white."""
    channels, height, width = image.shape
    scaled = (np.asarray(image, np.float64) * 255 / max(int(image.max()), 1)).astype(np.uint8).transpose(1, 2, 0)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), scaled.reshape(height, -1)], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def _write(path, text):
    """Write a file, whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(name, 0o644)
    os.replace(name, path)


def _tiles(summary):
    mismatches = summary["cycle_mismatches"] + summary["value_mismatches"]
    real = ", ".join(f"{name} {'unknown' if value is None else f'{100 * value:.1f} %'}" for name, value in
                     (("with QCFS in real numbers", summary["accuracy_float"]), ("with ReLU", summary["accuracy_relu"])))
    tiles = [
        ("good" if not mismatches else "bad", f"{summary['cycle_mismatches']} + {summary['value_mismatches']}",
         "cycles + values in which RTL and model differ"),
        ("", f"{summary['images']}", "images run on both, every cycle compared"),
        ("", f"{100 * summary['accuracy_integer']:.1f} %", f"accuracy in integers ({real})"),
        ("", f"{summary['rtl_cycles'] / summary['images']:,.0f}", f"cycles per image on RTL (model: "
         f"{summary['model_cycles'] / summary['images']:,.0f})"),
        ("", f"{summary['utilisation']['ann']:.2f}", "matches per ANN PE and cycle"),
        ("", f"{summary['utilisation']['snn']:.2f}", "matches per SNN PE and cycle"),
    ]
    return "".join(f'<div class="{kind}"><b>{html.escape(value)}</b><span>{html.escape(text)}</span></div>' for kind, value, text in tiles)


def _samples(samples):
    shown = []
    for image, label, answer in samples:
        if image.shape[0] in (1, 3):
            data = base64.b64encode(png(image)).decode()
            kind = "good" if label == answer else "bad"
            shown.append(f'<figure class="{kind}"><img alt="test image of a {label}" src="data:image/png;base64,{data}">'
                         f"<figcaption>says <b>{answer}</b>, is {label}</figcaption></figure>")
    return "".join(shown)


def plot(figure):
    """A Plotly figure as part of a `page`."""
    import plotly.io

    return plotly.io.to_html(figure, full_html=False, include_plotlyjs=False, config={"responsive": True, "displayModeBar": False},
                             default_width="100%", default_height=f"{figure.layout.height}px")


def page(title, introduction, sections, *, style="", script=""):
    """An HTML page that needs no network: Plotly and all that is in it are in the file.

    Parameters
    ----------
    title, introduction : str
        Plain text.
    sections : list of (heading, text, content)
        HTML.
    style, script : str
        Added to the page's own.
    """
    import plotly.offline

    body = "".join(f"<section><h2>{heading}</h2><p>{text}</p>{content}</section>\n" for heading, text, content in sections)
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>NeuroFlex: {html.escape(title)}</title><style>{_STYLE}{style}</style>\n"
            f'<script>{plotly.offline.get_plotlyjs()}</script></head>\n<body><main><h1>{html.escape(title)}</h1>'
            f"<p>{html.escape(introduction)}</p>\n{body}</main>\n{_SETTLE}{script}</body></html>\n")


def render(report):
    """The HTML page."""
    from neuroflex import figures
    from neuroflex.sim.energy import DEFAULT

    s = report.summary
    title = f"{s['network']} on {s['configuration']}"
    planes = "".join(f"<div><h3>{html.escape(name)}</h3>{plot(figures.columns_figure(columns))}</div>"
                     for name, columns in report.columns.items())
    sections = [
        ("Summary", "The generated Verilog, simulated cycle by cycle, against the golden model. Nothing here was run on a board.",
         f'<div class="tiles">{_tiles(s)}</div>'),
        ("Answers", "Test images and what the RTL made of them.", f'<div class="digits">{_samples(report.samples)}</div>'),
        ("Columns and the split", "Each column of a layer on either core, as the cost model predicts it from the calibration images. Filled: where it runs. Hollow: where it would have been. "
         "The split minimises the energy-delay product of the whole network; energies are counted events times coefficients measured on netlists of standard cells, memories by a published model.",
         f'<div class="plots">{planes}</div>'),
        ("Energy-delay product of the policies", "Mean over the same images, from the golden model's cycles; lower is better. "
         f"Energies are counted events times the coefficients of {DEFAULT}: netlists of standard cells without wires, memories by a published model.", plot(figures.edp_figure(s["edp"]))),
        ("PE timelines", "When each processing element issued matches, for the first image, from the golden model, whose matches "
         "were compared with the RTL's in every cycle. Gaps shorter than 16 cycles are closed.",
         plot(figures.timeline_figure(report.timeline, report.layers))),
        ("Utilisation by layer", "Matches per PE and cycle while the layer ran, measured on RTL.",
         plot(figures.utilisation_figure(report.layers, report.sums, report.config))),
        ("Where the cycles go", "Every cycle counts under one cause, as the broadcaster sees it; measured on RTL, mean over the images.",
         plot(figures.stalls_figure(report.layers, report.sums))),
    ]
    return page(title, f"A hybrid ANN-SNN accelerator made by NeuroFlex, seed {s['seed']}.", sections)


def write_report(report, folder):
    """Write ``report.json`` and ``report.html``; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "report.json", folder / "report.html"
    _write(paths[0], json.dumps(report.summary, indent=2) + "\n")
    _write(paths[1], render(report))
    return paths
