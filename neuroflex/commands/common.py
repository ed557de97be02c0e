"""What the commands share: options, output as tables or JSON, and errors that help."""
import functools
import importlib
import importlib.util
import json
import sys
import zipfile
import zlib
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from neuroflex.progress import Display
from neuroflex.registers import MAX_LATENCY

__all__ = ["BROKEN_ARRAYS", "CheckFailed", "check_rows", "comparison_options", "config_option", "display", "emit", "figure", "images_options", "input_tensors", "json_option", "load_job", "load_network",
           "load_subject", "made_module", "memory_options", "memory_trace", "policy_option", "seed_option", "table"]

POLICIES = ("hybrid", "balanced", "all_ann", "all_snn", "layerwise", "random")

BROKEN_ARRAYS = (EOFError, ValueError, zipfile.BadZipFile, zlib.error)      # what NumPy raises for files that are no arrays, or damaged

output = Console()      # results; what is going on goes to standard error, see `display`
_WIDE = 250             # columns in a file or a pipe, so that no number is broken over two lines


def display(steps):
    """A display of so many steps on standard error. Made before the rest of NeuroFlex is loaded, which takes a second or two."""
    console = Console(stderr=True)
    console.print("loading NeuroFlex ...")
    return Display(steps, console)


class CheckFailed(click.ClickException):
    """What was checked does not hold."""

    exit_code = 1


# --- options -------------------------------------------------------------------------------------------
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output, and nothing else.")
config_option = click.option("--config", "config_name", default="tiny", show_default=True, metavar="NAME|FILE",
                             help="A preset (tiny, small, pynq_z2, paper) or a TOML file.")
policy_option = click.option("--policy", type=click.Choice(("measured", *POLICIES)), default="measured", show_default=True,
                             help="How columns are split between the cores: docs/cli.md says what each means.")
seed_option = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything that is drawn at random.")


def _stack(*options):
    def decorate(function):
        return functools.reduce(lambda f, option: option(f), reversed(options), function)
    return decorate


def _known_coefficients(ctx, param, value):
    from neuroflex.sim.energy import DEFAULT, SETS

    if value not in (None, *SETS):
        raise click.UsageError(f"no set of coefficients {value!r}; there are {', '.join(SETS)}")
    return value or DEFAULT


images_options = _stack(
    click.option("--images", "count", type=click.IntRange(1), show_default="1; all of --input", help="How many images."),
    click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="Number of the first one."),
    click.option("--input", "input_file", type=click.Path(dir_okay=False, path_type=Path),
                 help="Images of your own instead: a .npy file, raw pixels (n, C, H, W)."))
memory_options = _stack(
    click.option("--latency", type=click.IntRange(1, MAX_LATENCY), default=20, show_default=True, help="Cycles that memory takes to answer a read."),
    click.option("--memory-seed", type=click.IntRange(0), help="Draw readiness and latencies (1 to 60 cycles) at random instead."))

comparison_options = _stack(
    click.option("--rows", type=click.IntRange(1), help="Run at most so many rows of a layer and scale: for shapes only, and said in the output."),
    click.option("--images", type=click.IntRange(1), default=1, show_default=True, help="Test images of a trained network."),
    click.option("--coefficients", callback=_known_coefficients, show_default="measured-sky130", metavar="SET",
                 help="Energy coefficients that the schedule is made with, measured-sky130 or literature-45nm; results are given with both."),
    click.option("--latency", type=click.IntRange(1, MAX_LATENCY), default=20, show_default=True, help="Cycles that memory takes to answer a read."))


def memory_trace(latency, memory_seed):
    """The memory behind the accelerator that the options describe."""
    from neuroflex.sim.memory import MemoryTrace

    if memory_seed is None:
        return MemoryTrace.constant(latency)
    return MemoryTrace.random(np.random.default_rng(memory_seed))


# --- input ---------------------------------------------------------------------------------------------
def load_network(name, shapes=(), *, split=False):
    """A network by zoo name or file, or FILE:SEGMENT of one with host steps.

    ``shapes`` are names that the command takes besides, for the message when it is neither; ``split`` says that it takes host steps.
    """
    from neuroflex import zoo
    from neuroflex.compiler.split import SplitNetwork, load

    if name in zoo.names():
        return zoo.load(name)
    file, colon, segment = name.rpartition(":")
    if colon and not Path(name).is_file() and Path(file).is_file():
        network = load(file)
        if not isinstance(network, SplitNetwork):
            raise click.UsageError(f"{file}: has no segments, it is one program; leave :{segment} out")
        return network.alone(segment)
    if not Path(name).is_file():
        besides = f"a shape ({', '.join(shapes)}), " if shapes else ""
        raise click.UsageError(f"{name!r} is neither {besides}a network of the zoo ({', '.join(zoo.names())}) nor a file of a network or a program")
    if is_image(name):
        raise click.UsageError(f"{name} is a program image; this command takes networks")
    network = load(name)
    if isinstance(network, SplitNetwork) and not split:
        raise click.UsageError(f"{name}: {network.host_steps[0].title} is computed by the host, so that the network is no single program. `neuroflex compare` takes "
                               f"it as it is; give one of its segments here, such as {name}:{network.segments[0].name} (`neuroflex info {name}` lists them)")
    return network


def load_subject(name):
    """What a comparison runs: the shape of this name, with its spike traces looked through, or else a network."""
    from neuroflex.compare.shapes import SHAPES
    from neuroflex.compare.traces import spike_counts

    if name not in SHAPES:
        return load_network(name, SHAPES, split=True)
    if SHAPES[name].trace:
        spike_counts(SHAPES[name])
    return SHAPES[name]


def is_image(path):
    """Whether a file says that it is a program image."""
    from neuroflex.compiler.image import MAGIC

    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def load_job(program, config_name, policy, seed):
    """A job from a program image, or from a network compiled here and now."""
    from neuroflex import flow
    from neuroflex.config import load_config
    from neuroflex.program import open_image

    if is_image(program):
        context = click.get_current_context(silent=True)
        for option, name in (("--config", "config_name"), ("--policy", "policy")):
            if context and context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(f"{program} is a program image, which has its own configuration and policy (`neuroflex info {program}`); leave {option} out")
        return open_image(program)[0]
    if Path(program).suffix == ".nfx" and Path(program).is_file():
        raise click.UsageError(f"{program}: not a program image, or damaged in its first bytes; compile it again")
    return flow.compile_network(load_network(program), load_config(config_name), policy=policy, seed=seed)


def input_tensors(network, count, first, input_file):
    """Levels (n, C, H, W) of the chosen images, and their labels or None."""
    from neuroflex.fpga.driver import raw_pixels
    from neuroflex.sim.network import quantise

    if input_file is not None:
        try:
            with open(input_file, "rb") as file:        # ours to close: NumPy leaves a broken archive open
                images = np.load(file, allow_pickle=False)
        except BROKEN_ARRAYS as error:
            why = "" if "pickle" in str(error) else f": {error}"        # NumPy takes any other file for a pickle
            raise click.UsageError(f"{input_file}: not a .npy file of numbers{why}") from None
        if not isinstance(images, np.ndarray) or images.dtype.kind not in "biuf":
            raise click.UsageError(f"{input_file}: not a .npy file of numbers")
        if images.ndim == 3:
            images = images[None]
        if images.ndim != 4 or images.shape[1:] != network.input.image_shape:
            raise click.UsageError(f"{input_file}: shape {images.shape}; network {network.name!r} takes images of shape "
                                   f"(n, {', '.join(map(str, network.input.image_shape))})")
        count = max(1, len(images) - first) if count is None else count
        if len(images) < first + count:
            raise click.UsageError(f"{input_file} holds {len(images)} images; images {first} to {first + count - 1} were asked for")
        try:
            return quantise(network.input, raw_pixels(network, images[first:first + count])), None
        except ValueError as error:
            raise click.UsageError(f"{input_file}: {error}") from None
    if network.examples is None:
        raise click.UsageError(f"network {network.name!r} holds no test images; give some with --input")
    count = count or 1
    images = network.examples.test_images[first:first + count]
    if len(images) < count:
        raise click.UsageError(f"network {network.name!r} holds {len(network.examples.test_images)} test images; images {first} to "
                               f"{first + count - 1} were asked for")
    return quantise(network.input, images), network.examples.test_labels[first:first + count]


def made_module(source):
    """The PyTorch module that FILE.py:NAME or PACKAGE.MODULE:NAME names."""
    from torch import nn

    place, _, attribute = source.rpartition(":")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise click.UsageError(f"{place!r}: no such file")
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        code = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(code)
    else:
        try:
            code = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise click.UsageError(f"{place!r}: {error}") from None
    if not hasattr(code, attribute):
        raise click.UsageError(f"{place!r} has no {attribute!r}")
    made = getattr(code, attribute)
    made = made if isinstance(made, nn.Module) else made()
    if not isinstance(made, nn.Module):
        raise click.UsageError(f"{source!r} makes a {type(made).__name__}, not a torch.nn.Module")
    return made


# --- output --------------------------------------------------------------------------------------------
def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def check_rows(subjects, rows):
    """Refuse ``--rows`` where nothing is there that it cuts: images of trained networks run whole."""
    from neuroflex.compare.shapes import NetworkShape

    if rows is not None and not any(isinstance(which, NetworkShape) for which in subjects):
        raise click.UsageError(f"--rows cuts the layers of shapes; {', '.join(which.name for which in subjects)}: trained, images run whole")


def emit(as_json, result, *renderables):
    """Print ``result`` as JSON, or else the tables and texts."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, default=_plain) + "\n")
    else:
        console = output if output.is_terminal else Console(width=_WIDE)
        for item in renderables:
            console.print(item)


def figure(value):
    """A number as people read it."""
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else str(value)


def table(title, columns, rows):
    """A table; numbers go to the right."""
    made = Table(title=title, title_justify="left", title_style="bold")
    rows = [list(row) for row in rows]
    for i, name in enumerate(columns):
        numeric = rows and all(isinstance(row[i], (int, float, np.number)) for row in rows)
        made.add_column(name, justify="right" if numeric else "left", overflow="fold", min_width=max(len(figure(row[i])) for row in rows) if numeric else None)
    for row in rows:
        made.add_row(*(figure(value) for value in row))
    return made
