"""``neuroflex import``"""
import importlib
import io
from pathlib import Path

import click
import numpy as np

from neuroflex.commands.common import BROKEN_ARRAYS, display, emit, json_option, made_module, table

__all__ = ["command"]

_AT_A_TIME = 100
_KEPT = 64      # calibration images that stay with the network, for profiles
_READING = ("steps", "dt", "reset", "comparison", "initial", "neuron")


def _shape(context, parameter, text):
    if text is None:
        return None
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 1:
        raise click.BadParameter(f"three sizes C,H,W are needed, such as 1,28,28, not {text!r}")
    return sizes


def _positive(context, parameter, value):
    if not 0 < value < float("inf"):
        raise click.BadParameter(f"a positive number is needed, not {value:g}")
    return value


@click.command("import")
@click.argument("source")
@click.option("-o", "--output", "path", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Network file (.npz) to write.")
@click.option("--name", help="Name of the network; the file's without its ending by default.")
@click.option("--calibration", type=click.Path(dir_okay=False, path_type=Path),
              help="Raw images, a .npy file (n, C, H, W): for ranges; the first 64 are kept with the network, if they are bytes (uint8), which `compile` needs.")
@click.option("--test", "test_file", type=click.Path(dir_okay=False, path_type=Path),
              help="Test images to keep with the network: an .npz file with images (n, C, H, W), bytes, and labels (n).")
@click.option("--image-shape", callback=_shape, metavar="C,H,W", help="Of one image; needed where SOURCE does not say it.")
@click.option("--pixel-scale", type=float, default=1.0, show_default=True, callback=_positive,
              help="What one unit of a raw pixel is to the network (1/255 is 0.00392157).")
@click.option("--levels", type=click.IntRange(1, 127), help="ONNX: most levels of a tensor. PyTorch: calibrate ReLUs to this many.")
@click.option("--tolerance", type=float, help="PyTorch: fewer levels than --levels where this share of the squared activation is lost at most.")
@click.option("--host-levels", type=click.IntRange(1, 127), help="PyTorch: levels of what the cores hand to the host, 127 by default.")
@click.option("--input-levels", type=click.IntRange(1, 127), help="PyTorch, NIR: levels of the image.")
@click.option("--full-scale", type=float, help="NIR: current of the image's highest level.")
@click.option("--steps", type=click.IntRange(1, 127), help="NIR: time steps.")
@click.option("--dt", type=float, help="NIR: length of a step.")
@click.option("--reset", type=click.Choice(["subtract", "value"]), help="NIR: what a spike does to the membrane.")
@click.option("--comparison", type=click.Choice([">=", ">"]), help="NIR: how the membrane is compared with the threshold.")
@click.option("--initial", type=float, help="NIR: membrane at the start, as a share of the threshold.")
@click.option("--neuron", type=click.Choice(["if", "pasc-if"]), help="NIR: free-running neurons, or such that wait for all of their input.")
@click.option("--integration", type=click.Choice(["euler", "exact"]), help="NIR: of leaky neurons.")
@json_option
def command(source, path, name, calibration, test_file, as_json, **options):
    """Import SOURCE as an integer network.

    SOURCE is an ONNX model (.onnx), a NIR graph (.nir), or a PyTorch module as FILE.py:NAME or PACKAGE.MODULE:NAME, where NAME is a module
    or a function that makes one (which runs that Python code). What is represented and what is refused: docs/frontends.md.
    """
    show = display(2 + (":" in source and options["levels"] is not None) + bool(test_file))
    from neuroflex.compiler.network import Examples

    images = None if calibration is None else _images(calibration)
    name = name or Path(source.partition(":")[0]).stem
    examples = None
    if images is not None and images.dtype == np.uint8:
        test, labels = _test(test_file) if test_file else (images[:0], np.zeros(0, int))
        examples = Examples(test_images=test, test_labels=labels, calibration_images=images[:_KEPT])
    elif test_file:
        raise click.UsageError("--test needs --calibration with bytes too: profiles are taken on images that are no test")
    network = _import(source, name, images, examples, options, show)
    right = _right(network, show) if test_file else None
    with show.step(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        network.save(path)
    notes = _notes(source, path, images, examples)
    about = network.metadata.get("import", {})
    report = about.get("layers", {})
    layers = [{"layer": layer.name, "columns": layer.columns, "levels": int(layer.levels.max()), "theta": f"{layer.theta.min()} … {layer.theta.max()}",
               "equal_columns": report.get(layer.name, {}).get("equal_columns"),
               "most_levels_apart": report.get(layer.name, {}).get("most_levels_apart")} for layer in network.layers]
    result = {"network": path, "bytes": path.stat().st_size, "name": network.name, "digest": network.digest, "layers": layers,
              "test_images": None if right is None else len(examples.test_labels), "right": right, "notes": notes,
              "import": {key: value for key, value in about.items() if key != "layers"}}
    emit(as_json, result,
         table(f"{network.name} from {source}", ("layer", "columns", "levels", "theta", "columns equal", "most levels apart"),
               (["–" if value is None else value for value in layer.values()] for layer in layers)),
         *(f"{key}: {value}" for key, value in about.items() if key not in ("layers", "notes")),
         *(f"note: {note}" for note in (*about.get("notes", ()), *notes)),
         *([] if right is None else [f"{right} of {len(examples.test_labels)} test images right, in integers"]),
         f"{path}: {path.stat().st_size:,} bytes")


def _right(network, show):
    """How many of the test images the integer network classifies right."""
    from neuroflex.sim.split import evaluate

    images, labels = network.examples.test_images, network.examples.test_labels
    starts = range(0, len(images), _AT_A_TIME)
    with show.count(f"classify {len(images)} test images in integers", len(starts)) as done:
        right = 0
        for start in starts:
            output = evaluate(network, images[start:start + _AT_A_TIME]).output
            right += int((output.reshape(len(output), -1).argmax(axis=1) == labels[start:start + _AT_A_TIME]).sum())
            done()
    return right


def _notes(source, path, images, examples):
    """What a user may have overlooked."""
    found = []
    scaled = click.get_current_context().get_parameter_source("pixel_scale") != click.core.ParameterSource.DEFAULT
    if images is not None and images.dtype.kind in "iu" and images.max() > 1 and not scaled and ".onnx" not in source and ".nir" not in source:
        found.append(f"a pixel of {images.max()} is {images.max()} to the network, too; one that was trained on pixels from 0 to 1 wants --pixel-scale {1 / images.max():.6g}")
    if images is not None and examples is None:
        found.append(f"calibration images of {images.dtype} are not kept, only bytes are (uint8, with --pixel-scale): `neuroflex compile {path}` will ask for some")
    return found


def _load(path, kind):
    with open(path, "rb") as file:      # read as a whole: NumPy leaves a broken archive open
        content = io.BytesIO(file.read())
    try:
        found = np.load(content, allow_pickle=False)
    except BROKEN_ARRAYS as error:
        raise click.UsageError(f"{path}: not a {kind} file of numbers, or cut short: {error}") from None
    if not isinstance(found, np.ndarray if kind == ".npy" else np.lib.npyio.NpzFile):
        raise click.UsageError(f"{path}: not a {kind} file")
    return found


def _images(path):
    images = _load(path, ".npy")
    if images.dtype.kind not in "biuf" or images.ndim != 4:
        raise click.UsageError(f"{path}: images (n, C, H, W) are needed, numbers, not {images.dtype} of shape {images.shape}")
    if not images.size:
        raise click.UsageError(f"{path}: the calibration set is empty, its shape is {images.shape}; at least one image is needed")
    if not np.isfinite(images).all():
        raise click.UsageError(f"{path}: {np.count_nonzero(~np.isfinite(images))} pixels are NaN or infinite")
    return images


def _test(path):
    found = _load(path, ".npz")
    missing = {"images", "labels"} - set(found.files)
    if missing:
        raise click.UsageError(f"{path}: holds no {' and no '.join(sorted(missing))}, but {', '.join(found.files) or 'nothing'}")
    try:
        images, labels = found["images"], found["labels"]
    except BROKEN_ARRAYS as error:
        raise click.UsageError(f"{path}: an array in it is damaged: {error}") from None
    for what, value, ndim in (("images (n, C, H, W), bytes,", images, 4), ("labels (n), integers,", labels, 1)):
        if value.dtype.kind not in "iu" or value.ndim != ndim:
            raise click.UsageError(f"{path}: {what} are needed, not {value.dtype} of shape {value.shape}")
    return images, labels


def _import(source, name, images, examples, options, show):
    common = {"name": name, "pixel_scale": options["pixel_scale"], "calibration": images, "examples": examples}
    if ":" in source and not Path(source).is_file():
        kind, run, taken = "PyTorch", _torch, {"image_shape", "levels", "tolerance", "host_levels", "input_levels"}
    elif source.endswith(".onnx"):
        kind, run, taken = "ONNX", _onnx, {"image_shape", "levels"}
    elif source.endswith(".nir"):
        kind, run, taken = "NIR", _nir, {"image_shape", "input_levels", "full_scale", "integration", *_READING}
    else:
        raise click.UsageError(f"{source!r} is no ONNX model (.onnx), no NIR graph (.nir) and no PyTorch module (FILE.py:NAME)")
    given = {key: value for key, value in options.items() if value is not None and key != "pixel_scale"}
    foreign = set(given) - taken
    if foreign:
        raise click.UsageError(f"--{sorted(foreign)[0].replace('_', '-')} is not for {kind} sources")
    return run(source, common, given, show)


def _module(name, extra):
    try:
        return importlib.import_module(f"neuroflex.compiler.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("neuroflex"):
            raise
        raise ModuleNotFoundError(f"reading {extra.upper()} needs the package {error.name!r}: pip install 'neuroflex[{extra}]'") from None


def _onnx(source, common, given, show):
    with show.step(f"import the ONNX model {source}"):
        return _module("onnx_import", "onnx").import_onnx(source, **common, **given)


def _nir(source, common, given, show):
    importer = _module("nir_import", "nir")
    missing = [key for key in (*_READING, "input_levels", "full_scale") if key not in given]
    if missing:
        raise click.UsageError("a NIR graph leaves open what its neurons do in discrete time, and nothing is guessed: say "
                               + ", ".join(f"--{key.replace('_', '-')}" for key in missing))
    reading = importer.Reading(**{key: given.pop(key) for key in (*_READING, "integration") if key in given})
    with show.step(f"import the NIR graph {source}"):
        return importer.import_nir(source, reading=reading, **common, **given)


def _torch(source, common, given, show):
    importer = _module("torch_import", "torch")
    module = made_module(source).eval()
    if "image_shape" not in given:
        if common["calibration"] is None:
            raise click.UsageError("a PyTorch module does not say the size of its images: give --image-shape C,H,W, or --calibration")
        given["image_shape"] = common["calibration"].shape[1:]
    if "levels" in given:
        if common["calibration"] is None:
            raise click.UsageError("--levels puts a QCFS in place of each ReLU, which needs --calibration")
        with show.step(f"calibrate the ReLUs of {source} to {given['levels']} levels with {len(common['calibration'])} images"):
            module = _module("torch_calibrate", "torch").calibrate(module, common["calibration"], levels=given["levels"],
                                                                   tolerance=given.get("tolerance"), input_levels=given.get("input_levels"),
                                                                   host_levels=given.get("host_levels"), pixel_scale=common["pixel_scale"])
    elif given.keys() & {"host_levels", "input_levels", "tolerance"}:
        raise click.UsageError("--host-levels, --input-levels and --tolerance go with --levels: a network with QCFS activations says its own")
    with show.step(f"import the PyTorch module {source}"):
        return importer.import_torch(module, given["image_shape"], **common)
