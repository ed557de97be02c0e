"""The pictures of a comparison, as Plotly figures."""

__all__ = ["blocks_figure", "densities_figure", "density_histogram_figure", "edp_figure", "energy_figure", "levels_figure", "plane_figure", "roofline_figure"]

import numpy as np

from neuroflex.compare.measure import BASELINES
from neuroflex.figures import CORE_COLOURS, blank_figure
from neuroflex.formats import Core

# Okabe and Ito's colours, told apart by nearly everyone.
_COLOURS = {"hybrid": "#009E73", "ann_only": "#0072B2", "ann_only_iso_area": "#56B4E9", "snn_only": "#D55E00", "snn_only_iso_area": "#E69F00",
            "layerwise": "#CC79A7", "random": "#999999", "dealt": "#F0E442", "dense": "#555555"}
_MARKERS = {"hybrid": "star", "ann_only": "circle", "ann_only_iso_area": "circle-open", "snn_only": "diamond", "snn_only_iso_area": "diamond-open",
            "layerwise": "square", "random": "x", "dealt": "cross", "dense": "triangle-up"}
_LEVEL_COLOURS = ("#e3e7ec", "#FDE725", "#B5DE2B", "#6DCD59", "#35B779", "#1F9E89", "#26828E", "#31688E", "#3E4A89", "#440154")     # none, 1 … 8, more


def _label(name):
    return name.replace("_", " ").replace("ann", "ANN").replace("snn", "SNN").replace(" only", "-only")


def edp_figure(networks, key="edp"):
    """Energy-delay product of every baseline over that of the hybrid split, by network; ``key`` is ``edp`` or ``edp_running``."""
    figure = blank_figure(400, "", "EDP over hybrid's")
    for name in BASELINES:
        values = [None if one[key][name] is None else one[key][name] / one[key]["hybrid"] for one in networks.values()]
        figure.add_bar(x=[one["title"] for one in networks.values()], y=values, name=_label(name), marker={"color": _COLOURS[name]},
                       text=["" if value is None else f"{value:.2f}" for value in values], textposition="outside", cliponaxis=False,
                       hovertemplate="%{x}: %{y:.3f}×<extra>" + _label(name) + "</extra>")
    figure.add_hline(y=1, line={"color": _COLOURS["hybrid"], "width": 2})
    figure.update_layout(barmode="group", margin={"t": 28})
    figure.update_yaxes(type="log", exponentformat="none")
    return figure


def plane_figure(result):
    """Baselines of one network in the energy-delay plane over hybrid's place, with lines of equal EDP."""
    figure = blank_figure(420, "cycles over hybrid's", "energy over hybrid's")
    hybrid = result["baselines"]["hybrid"]
    points = {name: (one["cycles"] / hybrid["cycles"], one["energy_pj"] / hybrid["energy_pj"])
              for name, one in result["baselines"].items() if one["cycles"] is not None and name in _COLOURS}
    x = np.geomspace(0.8 * min(p[0] for p in points.values()), 1.25 * max(p[0] for p in points.values()), 60)
    low, high = 0.8 * min(p[1] for p in points.values()), 1.25 * max(p[1] for p in points.values())
    for product in (0.5, 1, 2, 4, 8, 16, 32, 64, 128):
        inside = (product / x >= low) & (product / x <= high)
        if inside.any():
            figure.add_scatter(x=x[inside].tolist(), y=(product / x[inside]).tolist(), mode="lines", line={"color": "#cccccc", "width": 1, "dash": "dot"},
                               hovertemplate=f"EDP {product:g}×<extra></extra>", showlegend=False)
    for name, (cycles, energy) in points.items():
        figure.add_scatter(x=[cycles], y=[energy], mode="markers", name=_label(name),
                           marker={"symbol": _MARKERS[name], "size": 12, "color": _COLOURS[name], "line": {"width": 2, "color": _COLOURS[name]}},
                           hovertemplate=f"{_label(name)}: %{{x:.3f}}× cycles, %{{y:.3f}}× energy<extra></extra>")
    figure.update_xaxes(type="log", exponentformat="none", dtick="D2")
    figure.update_yaxes(type="log", exponentformat="none", dtick="D2")
    return figure


def roofline_figure(result, pes, line_bytes):
    """Layers under the roofs of PEs and memory port: matches per cycle over matches per byte that must cross the port once."""
    figure = blank_figure(400, "matches per byte through the memory port", "matches per cycle")
    layers = [layer for layer in result["layers"] if layer["matches"] > 0]
    x = np.array([layer["matches"] / (layer["lines"] * line_bytes) for layer in layers])
    span = np.geomspace(min(x.min(), pes / line_bytes) / 2, max(x.max(), pes / line_bytes) * 2, 40)
    figure.add_scatter(x=span.tolist(), y=np.minimum(pes, span * line_bytes).tolist(), mode="lines", name="roof", line={"color": "#1c2430"}, hoverinfo="skip")
    for key, name, colour in (("total", "all cycles", _COLOURS["hybrid"]), ("running", "running cycles", _COLOURS["ann_only_iso_area"])):
        figure.add_scatter(x=x.tolist(), y=[layer["matches"] / max(layer[key], 1) for layer in layers], mode="markers", name=name,
                           text=[layer["layer"] for layer in layers], marker={"color": colour, "size": 8},
                           hovertemplate="%{text}: %{x:.3g} matches per byte, %{y:.1f} per cycle<extra></extra>")
    figure.update_xaxes(type="log", exponentformat="none", dtick=1)
    figure.update_yaxes(type="log", exponentformat="none", dtick=1)
    return figure


def energy_figure(result):
    """Energy of each layer as the hybrid split, all on the ANN core, all on the SNN core."""
    figure = blank_figure(340, "", f"pJ ({result['coefficients']})")
    for policy in ("hybrid", "ann_only", "snn_only"):
        figure.add_bar(x=[layer["layer"] for layer in result["layers"]], y=[layer["against"][policy]["energy_pj"] for layer in result["layers"]],
                       name=_label(policy), marker={"color": _COLOURS[policy]}, hovertemplate="%{x}: %{y:.3g} pJ")
    figure.update_layout(barmode="group", margin={"b": 110})
    return figure


_BLOCKS = {"pes": ("PEs", "#009E73"), "cache": ("FiberCache", "#CC79A7"), "compressor": ("compressor", "#F0E442")}


def blocks_figure(result):
    """Where the energy of the hybrid split goes: the share of each block, by set of coefficients and, with that of the schedules, by layer."""
    figure = blank_figure(360, "", "share of the energy")
    sets, chosen = result["energy_by_block"], result["coefficients"]
    spent = [(which, blocks) for which, blocks in sets.items()] + [(layer["layer"], layer["energies_by_block"][chosen]) for layer in result["layers"]]
    for block, (name, colour) in _BLOCKS.items():
        figure.add_bar(x=[label for label, _ in spent], y=[blocks[block] / max(sum(blocks.values()), 1e-300) for _, blocks in spent], name=name, marker={"color": colour},
                       customdata=[blocks[block] for _, blocks in spent], hovertemplate="%{x}: %{customdata:.3g} pJ, %{y:.1%}<extra>" + name + "</extra>")
    figure.update_layout(barmode="stack", margin={"b": 110})
    figure.update_yaxes(range=[0, 1.02])
    return figure


def densities_figure(result):
    """Densities of each layer, and its columns on the SNN core as a share."""
    figure = blank_figure(340, "", "share")
    names = [layer["layer"] for layer in result["layers"]]
    for key, name, colour in (("activation_density", "nonzero activations", "#0072B2"), ("weight_density", "nonzero weights", "#E69F00")):
        figure.add_bar(x=names, y=[layer[key] for layer in result["layers"]], name=name, marker={"color": colour}, hovertemplate="%{x}: %{y:.3f}")
    figure.add_scatter(x=names, y=[layer["on_snn"] / layer["columns"] for layer in result["layers"]], name="columns on the SNN core", mode="lines+markers",
                       line={"color": CORE_COLOURS[Core.SNN]}, hovertemplate="%{x}: %{y:.2f}")
    figure.update_layout(barmode="group", margin={"b": 110})
    figure.update_yaxes(range=[0, 1.02])
    return figure


def levels_figure(result):
    """Levels that each layer reads: stacked shares of 0, 1, … 8, and all above 8 together."""
    figure = blank_figure(380, "", "share of the inputs")
    most = len(_LEVEL_COLOURS) - 2
    shares = [layer["level_shares"] for layer in result["layers"]]
    for level, colour in enumerate(_LEVEL_COLOURS):
        values = [sum(one[level:]) if level > most else sum(one[level:level + 1]) for one in shares]
        if any(len(one) > level for one in shares):
            name = f"more than {most}" if level > most else f"level {level}"
            figure.add_bar(x=[layer["layer"] for layer in result["layers"]], y=values, name=name, marker={"color": colour}, hovertemplate="%{x}: %{y:.4f}")
    figure.update_layout(barmode="stack", margin={"b": 120})
    figure.update_yaxes(range=[0, 1.02])
    return figure


def density_histogram_figure(result, key, what):
    """Histogram of each layer as a column of a heat map: the share of channels or columns (``what``) whose density falls into each bin.

    ``key`` is ``channel_density_shares`` (activations) or ``column_density_shares`` (weights).
    """
    figure = blank_figure(400, "", f"density, % nonzero: share of {what}")
    edges = [f"{100 * edge:g}" for edge in result["density_edges"]]
    figure.add_heatmap(x=[layer["layer"] for layer in result["layers"]], y=[f"{low} … {high}" for low, high in zip(edges, edges[1:])],
                       z=np.transpose([layer[key] for layer in result["layers"]]).tolist(), zmin=0, zmax=1, colorscale="Blues",
                       colorbar={"thickness": 12}, hovertemplate="%{x}, %{y} %: %{z:.3f} of the " + what + "<extra></extra>")
    figure.update_layout(margin={"l": 96})
    figure.update_yaxes(type="category")
    return figure
