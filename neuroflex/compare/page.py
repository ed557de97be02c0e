"""The page of a comparison: one HTML file that needs no network."""

__all__ = ["write_page"]

import html
from pathlib import Path

import numpy as np

from neuroflex.atomic import write_atomically
from neuroflex.compare import plots
from neuroflex.compare.measure import BASELINES
from neuroflex.figures import stalls_figure, timeline_figure
from neuroflex.formats import StallCause
from neuroflex.report import page, plot

_STYLE = """
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; white-space: nowrap; }
th, td { padding: 4px 8px; border-bottom: 1px solid var(--line); text-align: right; } th:first-child, td:first-child { text-align: left; }
table.sortable th { cursor: pointer; position: sticky; top: 0; background: #fff; } th[aria-sort=ascending]::after { content: " ▲"; } th[aria-sort=descending]::after { content: " ▼"; }
nav a { margin-right: 12px; }
"""
_SCRIPT = """<script>
document.querySelectorAll('table.sortable th').forEach(head => head.addEventListener('click', () => {
  const table = head.closest('table'), body = table.tBodies[0], column = head.cellIndex;
  const down = head.getAttribute('aria-sort') === 'descending' ? 1 : -1;
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (a, b) => { const x = value(a), y = value(b), d = Number(x) - Number(y); return Number.isNaN(d) ? x.localeCompare(y) : d; };
  table.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', down > 0 ? 'ascending' : 'descending');
  [...body.rows].sort((a, b) => down * order(a, b)).forEach(row => body.append(row));
}));
</script>"""
_MOST_SLICES = 6000     # of a timeline that is drawn
# What others report, in their own counting: shown beside the figures, not compared with them as if they were the same.
_PUBLISHED = (("EDP below ANN-only (VGG-16, ResNet-34, GoogLeNet, BERT)", "57 … 67 %"), ("throughput over random mapping", "16 … 19 %"),
              ("PE utilisation (random mapping, layer-wise)", "0.975 … 0.993 (0.918 … 0.929, 0.710 … 0.839)"), ("speed over LoAS", "up to 2.5×"),
              ("energy below SparTen", "2.51×"))


def _table(heads, rows, *, sortable=False):
    """Rows of (text, value) or text as an HTML table."""
    def cell(item):
        text, value = item if isinstance(item, tuple) else (item, None)
        attribute = "" if value is None else f' data-value="{value}"'
        return f"<td{attribute}>{html.escape(str(text))}</td>"

    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table{" class=sortable" if sortable else ""}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _ratio(value, hybrid):
    return "–" if value is None else f"{value / hybrid:.3f}"


def _summary(networks):
    heads = ("network", "cycles", "running", "utilisation", "over random", "over dealt", "coefficients", "energy, pJ", *(f"EDP {name}" for name in BASELINES), "densities")
    rows = [(one["title"], f"{one['cycles']:,.0f}", f"{one['cycles_running']:,.0f}", f"{one['utilisation']:.3f}",
             f"{one['throughput_vs_random']:.2f}×", f"{one['throughput_vs_dealt']:.2f}×", _set_name(one, which), f"{by_set['energy_pj']['hybrid']:.4g}",
             *(_ratio(by_set["edp"][name], by_set["edp"]["hybrid"]) for name in BASELINES), one["densities"])
            for one in networks.values() for which, by_set in one["by_coefficients"].items()]
    return _table(heads, rows)


def _set_name(result, which):
    return which + (" (schedules)" if which == result["coefficients"] else "")


def _layers(result):
    heads = ("layer", "rows", "inputs", "columns", "on SNN", "levels in", "levels out", "activations", "weights", "matches per column and row", "cycles", "running",
             "utilisation", "ANN-only running", "SNN-only running", "energy, pJ", "rows run")
    rows = []
    for layer in result["layers"]:
        against = layer["against"]
        numbers = [(f"{layer[key]:,}", layer[key]) for key in ("rows", "inputs", "columns", "on_snn", "levels_in", "levels_out")]
        numbers += [(f"{layer[key]:.3f}", layer[key]) for key in ("activation_density", "weight_density")]
        numbers += [(f"{layer['matches_per_column']:.1f}", layer["matches_per_column"])]
        numbers += [(f"{layer[key]:,.0f}", layer[key]) for key in ("total", "running")]
        numbers += [(f"{layer['utilisation']:.3f}", layer["utilisation"])]
        numbers += [(f"{value / max(layer['running'], 1):.2f}×", value / max(layer["running"], 1)) for value in
                    (against["ann_only"]["running"], against["snn_only"]["running"])]
        numbers += [(f"{layer['energy_pj']:.3g}", layer["energy_pj"]), (f"{100 * layer['sampled']:.0f} %", layer["sampled"])]
        rows.append((layer["layer"], *numbers))
    return _table(heads, rows, sortable=True)


def _baselines(result):
    """Cycles of each baseline, and its energy and products with every set of coefficients."""
    heads = ["baseline", "PEs", "cycles", "running"]
    for which in result["by_coefficients"]:
        heads += [f"pJ, {_set_name(result, which)}", "EDP over hybrid", "EDP, running"]
    rows = []
    for name, one in result["baselines"].items():
        row = [name, "–" if one["pes"] is None else one["pes"], *("–" if one[key] is None else f"{one[key]:,.0f}" for key in ("cycles", "cycles_running"))]
        for by_set in result["by_coefficients"].values():
            energy = by_set["energy_pj"][name]
            row += ["–" if energy is None else f"{energy:.4g}", *(_ratio(by_set[key][name], by_set[key]["hybrid"]) for key in ("edp", "edp_running"))]
        rows.append((*row, one["how"]))
    return _table((*heads, "how"), rows)


def _timeline(parts):
    """The busiest part that was recorded, as far as it can be drawn."""
    recorded = [part for part in parts if part["pes"] is not None and len(part["pes"]["core"])]
    if not recorded:
        return "<p>No layer is short enough to be recorded cycle by cycle; <code>--rows</code> makes layers shorter.</p>"
    part = max(recorded, key=lambda one: one["cycles"])
    pes = part["pes"]
    order = np.argsort(pes["start"], kind="stable")[:_MOST_SLICES]
    cut = "" if len(order) == len(pes["core"]) else f" Its first {len(order):,} of {len(pes['core']):,} stretches are drawn; the trace file holds all."
    shown = {key: values[order] for key, values in pes.items()}
    return f"<p>{html.escape(part['name'])}, {part['cycles']:,.0f} cycles.{cut}</p>" + plot(timeline_figure(shown, part["layers"]))


def _accuracy(result):
    known = [f"{name} {100 * value:.2f} %" for name, value in result["accuracy"].items() if value is not None]
    return f" Accuracy: {', '.join(known)}." if known else " The file holds no accuracy."


def _network(name, result, config, parts):
    """Sections of one network."""
    layers = [layer["layer"] for layer in result["layers"]]
    sums = np.array([[layer["cycles"][cause.name.lower()] for cause in StallCause] + [0, 0] for layer in result["layers"]])
    title = html.escape(result["title"])
    about = (f"{html.escape(result['densities'].capitalize())}. {html.escape(result['source'])}.{_accuracy(result)} Schedules and pictures: energies {html.escape(result['coefficients'])}; "
             f"the table has all sets, with the same schedules. "
             f"Left to the host: {100 * result['host_share']:.2g} % of the operations. Utilisation {result['utilisation']:.3f}."
             + ("" if result["sampled"] == 1 else f" <b>Layers were cut to as little as {100 * result['sampled']:.1f} % of their rows and scaled.</b>")
             + ("" if result["hybrid_schedule"] == "hybrid" else f" On the cycle model {html.escape(result['hybrid_schedule'])} is better than the predicted split, and is taken."))
    return [
        (f'<a id="{html.escape(name)}"></a>{title}', about, _baselines(result)),
        (f"{title}: energy-delay plane", "All cycles against energy, both over hybrid's. Dotted: equal EDP. Baselines left of and below hybrid's line are better than it.",
         plot(plots.plane_figure(result))),
        (f"{title}: layers", "Tap a heading to sort.", _layers(result)),
        (f"{title}: where the cycles go", "Every cycle of the hybrid split counts under one cause, as the broadcaster sees it.", plot(stalls_figure(layers, sums))),
        (f"{title}: roofline", f"One point per layer. Roofs: {config.ann_pes + config.snn_pes} matches per cycle, and {config.line_bytes} bytes per cycle through the memory "
         "port. Bytes are those that must cross it once: weights, nonzero inputs, outputs.",
         plot(plots.roofline_figure(result, config.ann_pes + config.snn_pes, config.line_bytes))),
        (f"{title}: energy by layer", "Events of PEs, FiberCache and compressor times coefficients.", plot(plots.energy_figure(result))),
        (f"{title}: where the energy goes", "The hybrid split: shares of the processing elements, of FiberCache and of the compressor, of the whole network with every set of coefficients, "
         "then of each layer with that of the schedules. External memory is in none.", plot(plots.blocks_figure(result))),
        (f"{title}: densities and split", "Nonzero activations and weights, and the share of columns on the SNN core.", plot(plots.densities_figure(result))),
        (f"{title}: levels", "What each layer reads, by level; level 0 is a silent neuron, which is never stored nor sent.", plot(plots.levels_figure(result))),
        (f"{title}: density histograms", "How unlike each other channels and columns of a layer are, each layer from bottom to top. Left or above: channels of the activations "
         "by their share of nonzero levels; right or below: columns by their share of nonzero weights.",
         '<div class="plots">' + "".join(f"<div>{plot(plots.density_histogram_figure(result, key, what))}</div>" for key, what in
                                         (("channel_density_shares", "channels"), ("column_density_shares", "columns"))) + "</div>"),
        (f"{title}: PE timelines", "When each processing element issued matches. Gaps shorter than 16 cycles are closed.", _timeline(parts)),
    ]


def write_page(networks, config, timelines, path):
    """Write the page.

    Parameters
    ----------
    networks : dict
        Name → result of `neuroflex.compare.measure.compare_network`.
    config : ArchConfig
    timelines : dict
        Name → `neuroflex.compare.timelines.timelines_of`.
    path : path

    Returns
    -------
    Path
    """
    links = "<nav>" + "".join(f'<a href="#{html.escape(name)}">{html.escape(one["title"])}</a>' for name, one in networks.items()) + "</nav>"
    sections = [
        ("Summary", "Golden cycle model, which equals the RTL in every cycle; simulated, on no board. EDP columns are over hybrid's: above 1, hybrid is better. "
         "“Over random” and “over dealt” are throughput, all cycles: against the same split with each column on a PE drawn at random (on tiles that have room for any mapping), and with columns dealt evenly at random.", links + _summary(networks)),
        ("Energy-delay product, all cycles", "Loading of weights included: one image, every weight is loaded once. Above 1, hybrid is better.", plot(plots.edp_figure(networks))),
        ("Energy-delay product, running cycles", "Loading left out, as when many images pass.", plot(plots.edp_figure(networks, "edp_running"))),
        ("What others report", "The paper's own figures (arXiv 2511.05215), from a simulator at 40 nm, with its densities and its counting, which are not known in full. "
         "Baselines and counting of this page: docs/comparison.md.", _table(("figure", "published"), _PUBLISHED)),
    ]
    for name, result in networks.items():
        sections += _network(name, result, config, timelines[name])
    seeds = sorted({one["seed"] for one in networks.values()})
    text = page(f"Comparison on {config.name}", f"{config.ann_pes} ANN and {config.snn_pes} SNN processing elements, seed {', '.join(map(str, seeds))}.", sections,
                style=_STYLE, script=_SCRIPT)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    return path
