"""Data sets from a folder of yours: MNIST and CIFAR-10, as their publishers ship them and as NumPy archives.

The folder is the one that the environment variable ``NEUROFLEX_DATA`` names. Nothing is downloaded. docs/training.md lists the files.
"""

__all__ = ["DATA_SETS", "DataError", "DataSet", "load"]

import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuroflex.data_folder import VARIABLE, DataError
from neuroflex.progress import Silent

_DAMAGED = (EOFError, KeyError, ValueError, TypeError, IndexError, AttributeError, struct.error, pickle.UnpicklingError, tarfile.TarError, zipfile.BadZipFile,
            gzip.BadGzipFile, zlib.error, lzma.LZMAError)


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """Images and their classes.

    Attributes
    ----------
    name : str
        ``mnist`` or ``cifar10``.
    title : str
        What it is, for people and for a network's metadata.
    source : Path
        Where it was read from.
    x_train, x_test : uint8 array (n, C, H, W)
    y_train, y_test : int64 array (n,)
        Class numbers.
    classes : tuple of str
    """

    name: str
    title: str
    source: Path
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple


def load(name, folder=None, *, show=None):
    """Load a data set.

    Parameters
    ----------
    name : str
        One of `DATA_SETS`.
    folder : path, optional
        Where its files are; what ``NEUROFLEX_DATA`` says by default.
    show : neuroflex.progress.Display, optional
        Gets one step.

    Returns
    -------
    DataSet

    Raises
    ------
    DataError
        No folder, no such files in it, or files that are cut short or damaged.
    """
    if name not in DATA_SETS:
        raise DataError(f"no data set {name!r}; there are {', '.join(DATA_SETS)}")
    given = folder if folder is not None else os.environ.get(VARIABLE)
    if not given:
        raise DataError(f"where {name} is, nobody said: set {VARIABLE} to a folder with {_choices(name)}")
    folder = Path(given)
    if not folder.is_dir():
        raise DataError(f"{VARIABLE} names {str(folder)!r}, which is no folder; {name} needs one with {_choices(name)}")
    title, shape, classes, forms = DATA_SETS[name]
    for _, find, read in forms:
        path = find(folder)
        if path is None:
            continue
        with (show or Silent()).step(f"read {name} from {path}"):
            return _checked(name, title, path, shape, classes, _reading(path, read))
    raise DataError(f"{name} is not in {folder} (the folder that {VARIABLE} names): it needs {_choices(name)}")


def _choices(name):
    return " or ".join(what for what, _, _ in DATA_SETS[name][3])


def _reading(path, read):
    """``read(path)``; whatever a damaged file makes it raise becomes a `DataError` that names the file."""
    try:
        return read(path)
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(f"{path}: cut short or damaged ({type(error).__name__}: {error}); get the file again") from error
    except OSError as error:
        if error.filename is not None:
            raise DataError(f"{error.filename}: {error.strerror}") from error
        raise DataError(f"{path}: cut short or damaged ({error}); get the file again") from error


def _checked(name, title, path, shape, classes, parts):
    """The data set of ``x_train, y_train, x_test, y_test``, with what they must be."""
    arrays = {}
    for split, images, labels in (("train", parts[0], parts[1]), ("test", parts[2], parts[3])):
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8 or images.size != len(images) * np.prod(shape):
            raise DataError(f"{path}: its {split} images are {images.dtype} of shape {images.shape}; bytes (n, {', '.join(map(str, shape))}) are needed")
        if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
            raise DataError(f"{path}: {len(images)} {split} images need as many integer labels, not {labels.dtype} of shape {labels.shape}")
        if not len(images):
            raise DataError(f"{path}: it holds no {split} images")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise DataError(f"{path}: {split} labels must lie in 0 … {len(classes) - 1}; they span {labels.min()} … {labels.max()}")
        arrays |= {f"x_{split}": images.reshape(-1, *shape), f"y_{split}": labels.astype(np.int64)}
    title = title if isinstance(title, str) else title(path)
    return DataSet(name=name, title=title, source=path, classes=classes, **arrays)


# --- MNIST ---------------------------------------------------------------------------------------------
_IDX = {split: [f"{start}-{kind}{dot}idx{dims}-ubyte" for kind, dims in (("images", 3), ("labels", 1)) for dot in "-."]
        for split, start in (("train", "train"), ("test", "t10k"))}


def _file(folder, *names):
    """The first of these files that is there."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _idx_folder(folder):
    """Where MNIST's idx files are: the folder itself, or the one in it that other tools make."""
    places = (folder, folder / "mnist", folder / "MNIST", folder / "MNIST" / "raw")
    return next((place for place in places if any(_idx_file(place, name) for names in _IDX.values() for name in names)), None)


def _idx_file(folder, *names):
    return _file(folder, *(name + ending for name in names for ending in ("", ".gz")))


def _idx(path):
    """Bytes of an idx file, plain or compressed."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        content = file.read()
    zero, kind, dims = struct.unpack(">HBB", content[:4])
    if zero or kind != 8 or dims not in (1, 3):
        raise ValueError("no idx file of bytes")
    shape = struct.unpack(f">{dims}I", content[4:4 + 4 * dims])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dims)
    if len(values) != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{len(values)} bytes of data where its head says {'×'.join(map(str, shape))}")
    return values.reshape(shape)


def _mnist_idx(folder):
    parts = []
    for names in _IDX.values():
        for pair in (names[:2], names[2:]):
            path = _idx_file(folder, *pair)
            if path is None:
                raise DataError(f"{folder}: {pair[0]}[.gz] is missing; MNIST has four idx files")
            parts.append(_reading(path, _idx))
    return parts


def _archive(path, content, *names):
    """Arrays of an .npz archive, from its bytes."""
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        missing = [name for name in names if name not in found.files]
        if missing:
            raise DataError(f"{path}: holds no {', no '.join(missing)}, but {', '.join(found.files) or 'nothing'}")
        return [found[name] for name in names]


def _mnist_archive(path):
    return _archive(path, path.read_bytes(), "x_train", "y_train", "x_test", "y_test")


# --- CIFAR-10 ------------------------------------------------------------------------------------------
_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
_TEST_BATCH = "test_batch"


class _Batch(pickle.Unpickler):
    """Reads what CIFAR-10's batches hold, dictionaries of lists and byte arrays, and nothing that could run code."""

    @staticmethod
    def _array(kind, shape, dtype):
        return np.ndarray.__new__(np.ndarray, shape, "u1")       # its state, which follows, says the rest

    @staticmethod
    def _bytes(text, encoding):
        return text.encode("latin1")

    def find_class(self, module, name):
        allowed = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): self._bytes,
                   ("numpy.core.multiarray", "_reconstruct"): self._array, ("numpy._core.multiarray", "_reconstruct"): self._array}
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 needs")
        return allowed[module, name]


def _batch(content):
    """Images and labels of one batch, from its bytes."""
    found = _Batch(io.BytesIO(content), encoding="latin1").load()
    found = {key.decode() if isinstance(key, bytes) else key: value for key, value in found.items()}
    images, labels = found["data"], np.asarray(found["labels"])
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or labels.shape != (len(images),):
        raise ValueError("no batch of images and labels")
    return images.reshape(-1, 3, 32, 32), labels


def _cifar10_batches(read):
    """All batches; ``read(name)`` gives the bytes of one, and the name for messages."""
    found = {name: _reading(*_named(read, name)) for name in (*_BATCHES, _TEST_BATCH)}
    train = [found[name] for name in _BATCHES]
    return [np.concatenate([images for images, _ in train]), np.concatenate([labels for _, labels in train]), *found[_TEST_BATCH]]


def _named(read, name):
    path, content = read(name)
    return path, lambda _: _batch(content)


def _cifar10_folder(folder):
    def read(name):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: {name} is missing; CIFAR-10 has the files {', '.join(_BATCHES)} and {_TEST_BATCH}")
        return folder / name, (folder / name).read_bytes()

    return _cifar10_batches(read)


def _cifar10_tar(path):
    with tarfile.open(path, "r:gz") as archive:
        members = {Path(member.name).name: member for member in archive if member.isfile()}

        def read(name):
            if name not in members:
                raise DataError(f"{path}: {name} is missing in it; CIFAR-10 has the files {', '.join(_BATCHES)} and {_TEST_BATCH}")
            return f"{path}, {name}", archive.extractfile(members[name]).read()

        return _cifar10_batches(read)


def _cifar10_jpegs(path):
    """All images as JPEGs end to end: ``jpeg, offset, label, is_test``."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{path} holds JPEGs, which the package Pillow reads: pip install 'neuroflex[jpeg]'") from None
    with lzma.open(path) as file:
        content = file.read()
    jpeg, offset, label, test = _archive(path, content, "jpeg", "offset", "label", "is_test")
    if len(offset) != len(label) + 1 or len(test) != len(label) or offset[0] != 0 or offset[-1] != len(jpeg) or (np.diff(offset.astype(np.int64)) <= 0).any():
        raise ValueError("offsets, labels and images do not fit one another")
    images = np.empty((len(label), 3, 32, 32), np.uint8)
    for number, (start, end) in enumerate(zip(offset, offset[1:])):
        try:
            with Image.open(io.BytesIO(jpeg[start:end].tobytes())) as image:
                if image.size != (32, 32):
                    raise ValueError(f"it has {image.width}×{image.height}")
                images[number] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: image {number} is no JPEG of 32×32 pixels, or damaged ({error})") from error
    test = test.astype(bool)
    return images[~test], label[~test], images[test], label[test]


def _cifar10_title(path):
    return "CIFAR-10 as strongly compressed JPEGs" if path.suffix == ".xz" else "CIFAR-10"


_DIGITS = tuple("0123456789")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DATA_SETS = {       # name: title, shape of an image, classes, (what, finder, reader) in order of preference
    "mnist": ("MNIST", (1, 28, 28), _DIGITS, (
        ("MNIST's four idx files (train-images-idx3-ubyte[.gz], …)", _idx_folder, _mnist_idx),
        ("mnist.npz", lambda folder: _file(folder, "mnist.npz"), _mnist_archive))),
    "cifar10": (_cifar10_title, (3, 32, 32), _THINGS, (
        ("the folder cifar-10-batches-py", lambda folder: next((p for p in (folder / "cifar-10-batches-py",) if p.is_dir()), None), _cifar10_folder),
        ("cifar-10-python.tar.gz", lambda folder: _file(folder, "cifar-10-python.tar.gz"), _cifar10_tar),
        ("cifar10_jpeg.npz.xz", lambda folder: _file(folder, "cifar10_jpeg.npz.xz"), _cifar10_jpegs))),
}
