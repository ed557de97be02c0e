"""When each PE issued matches, and the same as trace events that Perfetto opens (https://ui.perfetto.dev)."""

__all__ = ["MOST_CYCLES", "timelines_of", "write_trace"]

import json

import numpy as np

from neuroflex.atomic import write_atomically
from neuroflex.compiler.lower import lower
from neuroflex.compiler.schedule import NetworkSchedule
from neuroflex.flow import timeline
from neuroflex.formats import Core

MOST_CYCLES = 150_000      # of a part that is recorded cycle by cycle


def timelines_of(subject, config, comparison):
    """Timelines of a subject's first image under the hybrid split.

    Parameters
    ----------
    subject : neuroflex.compare.measure.Subject
    config : neuroflex.config.ArchConfig
    comparison : neuroflex.compare.measure.Comparison
        Of them.

    Returns
    -------
    list of dict
        One per part: ``name``, ``start`` and ``cycles`` of it, ``layers`` (name of each descriptor's layer) and ``pes``, the
        arrays of `neuroflex.flow.timeline`, or None where the part takes more than `MOST_CYCLES` cycles.
    """
    totals = {}
    for layer in comparison.result["layers"]:
        totals.setdefault(layer["layer"], layer["total"])
    found, start = [], 0
    for part, tiles in zip(subject.parts, comparison.schedules):
        network = part.network
        cycles = sum(totals[layer.name] for layer in network.layers)
        pes, layers = None, []
        if cycles <= MOST_CYCLES:
            job = lower(network, config, NetworkSchedule(tiles=tiles, method="hybrid"), trace=part.calibration, plans=tiles)
            layers = [tile.layer for tile in job.tiles]
            pes = timeline(job, part.tensors[0])
        name = network.layers[0].name if len(network.layers) == 1 else network.name
        found.append({"name": name, "start": start, "cycles": cycles, "layers": layers, "pes": pes})
        start += cycles
    return found


def trace_events(timelines):
    """Trace events (JSON array format) of several networks: a process per network, a thread per PE; a cycle is shown as 1 ns."""
    events = []
    for process, (name, parts) in enumerate(timelines.items(), start=1):
        threads = {}

        def thread(label, process=process, threads=threads):
            if label not in threads:
                threads[label] = len(threads)
                events.append({"ph": "M", "name": "thread_name", "pid": process, "tid": threads[label], "args": {"name": label}})
            return threads[label]

        events.append({"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}})
        for part in parts:
            events.append({"ph": "X", "name": part["name"], "pid": process, "tid": thread("layers"), "ts": part["start"] / 1000, "dur": part["cycles"] / 1000,
                           "args": {"cycles": part["cycles"]} | ({} if part["pes"] else {"PEs": f"more than {MOST_CYCLES:,} cycles: not recorded"})})
            if part["pes"] is None:
                continue
            pes = part["pes"]
            for core, pe, first, end, layer in np.stack([pes[key] for key in ("core", "pe", "start", "end", "layer")], axis=1).tolist():
                events.append({"ph": "X", "name": part["layers"][layer], "pid": process, "tid": thread(f"{Core(core).name} {pe}"),
                               "ts": (part["start"] + first) / 1000, "dur": (end - first) / 1000})
    return events


def write_trace(timelines, path):
    """Write the trace file; returns its path."""
    write_atomically(path, json.dumps({"displayTimeUnit": "ns", "traceEvents": trace_events(timelines)}).encode())
    return path
