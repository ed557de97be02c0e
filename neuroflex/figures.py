"""The pictures of the report, as Plotly figures."""
import numpy as np
import plotly.graph_objects as go

from neuroflex.formats import Core, StallCause
from neuroflex.sim.energy import DEFAULT

__all__ = ["blank_figure", "columns_figure", "edp_figure", "stalls_figure", "timeline_figure", "utilisation_figure"]

# Okabe and Ito's colours, told apart by nearly everyone.
CORE_COLOURS = {Core.ANN: "#0072B2", Core.SNN: "#D55E00"}
_CAUSE_COLOURS = {StallCause.CONTROL: "#999999", StallCause.LOAD: "#CC79A7", StallCause.BROADCAST: "#009E73", StallCause.MEMORY: "#E69F00",
                  StallCause.SLOT: "#56B4E9", StallCause.ROW: "#F0E442", StallCause.OUTPUT: "#D55E00", StallCause.DRAIN: "#555555"}
_CAUSE_NAMES = {StallCause.CONTROL: "control", StallCause.LOAD: "loading weights", StallCause.BROADCAST: "broadcasting",
                StallCause.MEMORY: "waiting for activations", StallCause.SLOT: "waiting for PEs", StallCause.ROW: "waiting for neurons",
                StallCause.OUTPUT: "waiting for the compressor", StallCause.DRAIN: "last outputs"}
_LAYER_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D1F", "#5B4B8A")


def blank_figure(height, x, y):
    """An empty chart of the reports' looks, with the titles of its axes."""
    figure = go.Figure()
    figure.update_layout(
        height=height, margin={"l": 64, "r": 12, "t": 12, "b": 96}, template="plotly_white", font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0}, xaxis={"title": {"text": x, "standoff": 8}, "fixedrange": True},
        yaxis={"title": {"text": y, "standoff": 8}, "fixedrange": True, "exponentformat": "power"}, dragmode=False)
    return figure


def columns_figure(columns):
    """Columns of a layer in the energy-delay plane: filled where they run, hollow where they would have been.

    Parameters
    ----------
    columns : dict
        ``delay`` and ``energy``, float64 (2, N), by core; ``core``, int (N,), the split; ``spiking``, bool (N,), whether the SNN core
        could take the column.
    """
    figure = blank_figure(340, "cycles of the column", f"pJ ({DEFAULT})")
    delay, energy, chosen, spiking = columns["delay"], columns["energy"], columns["core"], columns["spiking"]
    x, y = np.full((2, 3 * len(chosen)), np.nan)
    for i in np.flatnonzero(spiking):
        x[3 * i:3 * i + 2], y[3 * i:3 * i + 2] = delay[:, i], energy[:, i]
    points = [(None if np.isnan(a) else float(a), None if np.isnan(b) else float(b)) for a, b in zip(x, y)]
    figure.add_scatter(x=[p[0] for p in points], y=[p[1] for p in points], mode="lines", line={"color": "#cccccc", "width": 1},
                       hoverinfo="skip", showlegend=False)
    for core in Core:
        for here in (False, True):
            take = np.flatnonzero((chosen == core) == here if core == Core.ANN else ((chosen == core) == here) & spiking)
            colour = CORE_COLOURS[core]
            figure.add_scatter(
                x=delay[core, take].tolist(), y=energy[core, take].tolist(), mode="markers", name=f"on {core.name}" if here else f"{core.name} instead",
                text=[f"column {i}" for i in take], hovertemplate="%{text}<br>%{x:,.0f} cycles, %{y:,.0f} pJ",
                marker={"symbol": ("circle" if core == Core.ANN else "diamond") + ("" if here else "-open"), "size": 9 if here else 6, "color": colour,
                        "opacity": 1.0 if here else 0.7})
    return figure


def edp_figure(edp):
    """Bars of the energy-delay product by policy, with the ratio to the hybrid split."""
    figure = blank_figure(320, "", f"pJ × cycles ({DEFAULT})")
    names = list(edp)
    figure.add_bar(x=[name.replace("_", "-") for name in names], y=[edp[name] for name in names],
                   text=[f"{edp[name] / edp['hybrid']:.2f}×" for name in names], textposition="outside", cliponaxis=False,
                   marker={"color": ["#009E73" if name == "hybrid" else "#999999" for name in names]}, hovertemplate="%{x}: %{y:.4g}<extra></extra>")
    figure.update_layout(showlegend=False, margin={"t": 28, "b": 48})
    return figure


def timeline_figure(timeline, layers):
    """When each PE issued matches, coloured by layer.

    Parameters
    ----------
    timeline : dict
        From :func:`neuroflex.flow.timeline`.
    layers : sequence of str
        Name of each descriptor's layer.
    """
    pes = sorted(set(zip(timeline["core"].tolist(), timeline["pe"].tolist())), reverse=True)
    row = {pe: i for i, pe in enumerate(pes)}
    figure = blank_figure(150 + 26 * len(pes), "cycle", "")
    names = list(dict.fromkeys(layers))
    for number, name in enumerate(names):
        x, y = [], []
        for core, pe, start, end, layer in zip(*(timeline[key].tolist() for key in ("core", "pe", "start", "end", "layer"))):
            if layers[layer] == name:
                x += [start, end, None]
                y += [row[core, pe]] * 2 + [None]
        figure.add_scatter(x=x, y=y, mode="lines", name=name, line={"width": 14, "color": _LAYER_COLOURS[number % len(_LAYER_COLOURS)]},
                           hovertemplate="cycle %{x:,}")
    figure.update_yaxes(tickvals=list(range(len(pes))), ticktext=[f"{Core(core).name} {pe}" for core, pe in pes], range=[-0.7, len(pes) - 0.3])
    figure.update_layout(legend={"y": -0.9 / max(1, len(pes) / 4)})
    return figure


def _by_layer(layers, sums):
    names = list(dict.fromkeys(layers))
    table = np.array([sums[[i for i, layer in enumerate(layers) if layer == name]].sum(axis=0) for name in names])
    return names, table


def stalls_figure(layers, sums):
    """Cycles of each layer by cause, stacked; ``sums`` is ``Result.layers`` without the last descriptor, per image."""
    names, table = _by_layer(layers, sums)
    figure = blank_figure(380, "", "cycles per image")
    for cause in StallCause:
        figure.add_bar(x=names, y=table[:, cause].tolist(), name=_CAUSE_NAMES[cause], marker={"color": _CAUSE_COLOURS[cause]},
                       hovertemplate="%{x}: %{y:,.0f} cycles")
    figure.update_layout(barmode="stack", margin={"b": 140}, legend={"y": -0.12})
    return figure


def utilisation_figure(layers, sums, config):
    """Matches per PE and cycle of each layer and core, over the cycles in which the layer ran."""
    names, table = _by_layer(layers, sums)
    run = table[:, [cause for cause in StallCause if cause not in (StallCause.CONTROL, StallCause.LOAD)]].sum(axis=1)
    figure = blank_figure(320, "", "matches per PE and cycle")
    for core, pes in ((Core.ANN, config.ann_pes), (Core.SNN, config.snn_pes)):
        figure.add_bar(x=names, y=(table[:, len(StallCause) + core] / (pes * np.maximum(run, 1))).tolist(), name=core.name,
                       marker={"color": CORE_COLOURS[core]}, hovertemplate="%{x}: %{y:.3f}")
    figure.update_layout(barmode="group", margin={"b": 72}, legend={"y": -0.14})
    figure.update_yaxes(range=[0, 1])
    return figure
