"""The pictures of a comparison, as Plotly figures."""

__all__ = ["densities_figure", "edp_figure", "energy_figure", "plane_figure", "roofline_figure"]

import numpy as np

from neuroflex.compare.measure import BASELINES
from neuroflex.figures import CORE_COLOURS, blank_figure
from neuroflex.formats import Core

# Okabe and Ito's colours, told apart by nearly everyone.
_COLOURS = {"hybrid": "#009E73", "ann_only": "#0072B2", "ann_only_iso_area": "#56B4E9", "snn_only": "#D55E00", "snn_only_iso_area": "#E69F00",
            "layerwise": "#CC79A7", "random": "#999999", "dense": "#555555"}
_MARKERS = {"hybrid": "star", "ann_only": "circle", "ann_only_iso_area": "circle-open", "snn_only": "diamond", "snn_only_iso_area": "diamond-open",
            "layerwise": "square", "random": "x", "dense": "triangle-up"}


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
