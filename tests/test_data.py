"""The data sets: every file format from small files made here, missing and damaged files, and the real ones where they are."""
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

from neuroflex.data import DataError, load

COUNTS = {"train": 10, "test": 3}


@pytest.fixture
def mnist():
    """Ten training images and three test images, with labels."""
    rng = np.random.default_rng(1)
    parts = {f"x_{split}": rng.integers(0, 256, (count, 28, 28)).astype(np.uint8) for split, count in COUNTS.items()}
    return parts | {f"y_{split}": rng.integers(0, 10, count).astype(np.uint8) for split, count in COUNTS.items()}


@pytest.fixture
def cifar10():
    rng = np.random.default_rng(2)
    parts = {f"x_{split}": rng.integers(0, 256, (count, 3, 32, 32)).astype(np.uint8) for split, count in COUNTS.items()}
    return parts | {f"y_{split}": rng.integers(0, 10, count) for split, count in COUNTS.items()}


def idx(values):
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_idx(folder, parts, *, dot="-", pack=False):
    folder.mkdir(parents=True, exist_ok=True)
    for split, start in (("train", "train"), ("test", "t10k")):
        for key, kind, dims in (("x", "images", 3), ("y", "labels", 1)):
            content = idx(parts[f"{key}_{split}"])
            path = folder / f"{start}-{kind}{dot}idx{dims}-ubyte{'.gz' * pack}"
            path.write_bytes(gzip.compress(content) if pack else content)


def batches(parts):
    """CIFAR-10's six files by name, each a pickle of protocol 2 as the publisher's are."""
    def batch(images, labels):
        return pickle.dumps({"data": images.reshape(len(images), -1), "labels": labels.tolist(), "batch_label": "one", "filenames": ["a.png"] * len(images)}, 2)

    found = {f"data_batch_{n + 1}": batch(parts["x_train"][2 * n:2 * n + 2], parts["y_train"][2 * n:2 * n + 2]) for n in range(5)}
    return found | {"test_batch": batch(parts["x_test"], parts["y_test"]), "batches.meta": b"not read"}


def write_batches(folder, parts, *, tar=False):
    if not tar:
        (folder / "cifar-10-batches-py").mkdir()
        for name, content in batches(parts).items():
            (folder / "cifar-10-batches-py" / name).write_bytes(content)
        return
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content in batches(parts).items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_jpegs(folder, parts, damage=lambda arrays: arrays):
    image = pytest.importorskip("PIL.Image", reason="needs the `jpeg` extra")
    files = []
    for picture in np.concatenate([parts["x_test"], parts["x_train"]]):
        file = io.BytesIO()
        image.fromarray(picture.transpose(1, 2, 0)).save(file, "JPEG", quality=95, subsampling=0)
        files.append(file.getvalue())
    arrays = {"jpeg": np.frombuffer(b"".join(files), np.uint8), "offset": np.cumsum([0, *map(len, files)]), "names": np.array(["airplane"]),
              "label": np.concatenate([parts["y_test"], parts["y_train"]]).astype(np.uint8), "is_test": np.arange(13) < 3}
    file = io.BytesIO()
    np.savez(file, **damage(arrays))
    (folder / "cifar10_jpeg.npz.xz").write_bytes(lzma.compress(file.getvalue(), preset=0))


def check(found, parts, shape):
    for split in COUNTS:
        assert np.array_equal(getattr(found, f"x_{split}"), parts[f"x_{split}"].reshape(-1, *shape)) and getattr(found, f"x_{split}").dtype == np.uint8
        assert np.array_equal(getattr(found, f"y_{split}"), parts[f"y_{split}"]) and getattr(found, f"y_{split}").dtype == np.int64
    assert len(found.classes) == 10


@pytest.mark.parametrize("place, dot, pack", [(".", "-", True), ("MNIST/raw", "-", False), ("mnist", ".", False)])
def test_mnist_as_published(tmp_path, mnist, place, dot, pack):
    write_idx(tmp_path / place, mnist, dot=dot, pack=pack)
    check(load("mnist", tmp_path), mnist, (1, 28, 28))


def test_mnist_archive(tmp_path, mnist, monkeypatch):
    np.savez(tmp_path / "mnist.npz", **mnist)
    monkeypatch.setenv("NEUROFLEX_DATA", str(tmp_path))
    found = load("mnist")
    check(found, mnist, (1, 28, 28))
    assert found.title == "MNIST" and found.source == tmp_path / "mnist.npz"


@pytest.mark.parametrize("tar", [False, True])
def test_cifar10_as_published(tmp_path, cifar10, tar):
    write_batches(tmp_path, cifar10, tar=tar)
    found = load("cifar10", tmp_path)
    check(found, cifar10, (3, 32, 32))
    assert found.title == "CIFAR-10" and found.classes[6] == "frog"


def test_cifar10_batch_of_python_2():
    """Bytes where Python 3 has text, as in the published files: written by hand, since no Python 3 writes them."""
    from neuroflex.data import _batch

    pixels = bytes(i * 7 % 256 for i in range(3072))
    text = lambda content: b"U" + bytes([len(content)]) + content                                  # noqa: E731
    array = (b"cnumpy.core.multiarray\n_reconstruct\n" b"cnumpy\nndarray\n" + b"K\x00\x85" + text(b"b") + b"\x87R"
             b"(K\x01K\x01M\x00\x0c\x86" b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
             b"\x89" + b"T" + struct.pack("<I", len(pixels)) + pixels + b"tb")
    images, labels = _batch(b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"]K\x06a" + b"u.")
    assert images.tobytes() == pixels and images.shape == (1, 3, 32, 32) and labels.tolist() == [6]


def test_cifar10_jpegs(tmp_path, cifar10):
    cifar10 = {key: np.repeat(np.repeat(value[..., ::16, ::16], 16, -1), 16, -2) if key[0] == "x" else value for key, value in cifar10.items()}
    write_jpegs(tmp_path, cifar10)
    found = load("cifar10", tmp_path)
    assert found.title == "CIFAR-10 as strongly compressed JPEGs"
    for split in COUNTS:
        assert np.array_equal(getattr(found, f"y_{split}"), cifar10[f"y_{split}"])
        assert np.abs(getattr(found, f"x_{split}").astype(int) - cifar10[f"x_{split}"]).max() < 30


def test_the_published_form_comes_first(tmp_path, mnist):
    np.savez(tmp_path / "mnist.npz", **mnist)
    write_idx(tmp_path, mnist)
    assert load("mnist", tmp_path).source == tmp_path


def test_missing_data_say_what_and_where(tmp_path, monkeypatch):
    monkeypatch.delenv("NEUROFLEX_DATA", raising=False)
    with pytest.raises(DataError, match=r"set NEUROFLEX_DATA to a folder with MNIST's four idx files \(train-images-idx3-ubyte\[.gz\], …\) or mnist.npz"):
        load("mnist")
    monkeypatch.setenv("NEUROFLEX_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match="none', which is no folder; cifar10 needs one with the folder cifar-10-batches-py or"):
        load("cifar10")
    with pytest.raises(DataError, match=f"cifar10 is not in {tmp_path} .*it needs the folder cifar-10-batches-py or cifar-10-python.tar.gz or cifar10_jpeg.npz.xz"):
        load("cifar10", tmp_path)
    with pytest.raises(DataError, match="no data set 'svhn'; there are mnist, cifar10"):
        load("svhn", tmp_path)


def test_a_missing_part_is_named(tmp_path, mnist, cifar10):
    write_idx(tmp_path, mnist)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\[.gz\] is missing"):
        load("mnist", tmp_path)
    write_batches(tmp_path, cifar10)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("cut", [lambda c: c[:-9], lambda c: c[:3], lambda c: b"", lambda c: c[:40] + b"junk" + c[44:] + b"more"])
def test_damaged_idx(tmp_path, mnist, pack, cut):
    write_idx(tmp_path, mnist, pack=pack)
    path = tmp_path / f"t10k-images-idx3-ubyte{'.gz' * pack}"
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path}: cut short or damaged"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("head, message", [(struct.pack(">HBBI", 0, 9, 1, 3), "no idx file of bytes"), (struct.pack(">HBBI", 0, 8, 1, 4), "3 bytes of data where its head says 4")])
def test_idx_heads(tmp_path, mnist, head, message):
    write_idx(tmp_path, mnist)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(head + b"abc")
    with pytest.raises(DataError, match=message):
        load("mnist", tmp_path)


@pytest.mark.parametrize("change, message", [
    ({"x_train": np.zeros((10, 28, 28))}, "its train images are float64 of shape"), ({"x_test": np.zeros((3, 27, 28), np.uint8)}, r"bytes \(n, 1, 28, 28\) are needed"),
    ({"y_test": np.zeros(2, int)}, "3 test images need as many integer labels"), ({"y_train": np.full(10, 10)}, "train labels must lie in 0 … 9"),
    ({"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, int)}, "it holds no test images"), ({"y_train": np.array([object()] * 10)}, "cut short or damaged"),
])
def test_wrong_archives(tmp_path, mnist, change, message):
    np.savez(tmp_path / "mnist.npz", **mnist | change)
    with pytest.raises(DataError, match=message):
        load("mnist", tmp_path)


def test_damaged_archives(tmp_path, mnist):
    np.savez(tmp_path / "mnist.npz", **mnist)
    content = (tmp_path / "mnist.npz").read_bytes()
    for cut in (b"", content[:100], content[:-200], content[:1000] + b"junk" + content[1004:]):
        (tmp_path / "mnist.npz").write_bytes(cut)
        with pytest.raises(DataError, match="mnist.npz: cut short or damaged"):
            load("mnist", tmp_path)
    np.savez(tmp_path / "mnist.npz", x_train=mnist["x_train"])
    with pytest.raises(DataError, match="mnist.npz: holds no y_train, no x_test, no y_test, but x_train"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80\x02}", pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}, 2), pickle.dumps([1], 2),
                                     pickle.dumps({"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]}, 2),
                                     pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, 2)])
def test_damaged_batches(tmp_path, cifar10, content):
    write_batches(tmp_path, cifar10)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_2: cut short or damaged"):
        load("cifar10", tmp_path)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


@pytest.mark.parametrize("tar", [False, True])
def test_a_batch_that_would_run_code_does_not(tmp_path, cifar10, monkeypatch, tar):
    monkeypatch.chdir(tmp_path)
    cifar10 |= {"y_test": type("Labels", (), {"tolist": lambda self: Malicious()})()}
    write_batches(tmp_path, cifar10, tar=tar)
    with pytest.raises(DataError, match=r"test_batch: cut short or damaged \(UnpicklingError: it asks for (posix|nt|os).mkdir, which no batch of CIFAR-10 needs"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "was-run").exists()


def test_damaged_tar(tmp_path, cifar10):
    write_batches(tmp_path, cifar10, tar=True)
    path = tmp_path / "cifar-10-python.tar.gz"
    content = path.read_bytes()
    for cut in (b"", content[:50], content[:-2000], b"x" * 1000):
        path.write_bytes(cut)
        with pytest.raises(DataError, match="cifar-10-python.tar.gz.*(cut short or damaged|is missing in it)"):
            load("cifar10", tmp_path)


@pytest.mark.parametrize("damage, message", [
    (lambda arrays: arrays | {"jpeg": np.concatenate([arrays["jpeg"][:-9], np.zeros(9, np.uint8)]) * 0}, "image 0 is no JPEG of 32×32 pixels, or damaged"),
    (lambda arrays: arrays | {"offset": arrays["offset"][:-1]}, "do not fit one another"),
    (lambda arrays: arrays | {"jpeg": arrays["jpeg"][:-9]}, "do not fit one another"),
    (lambda arrays: {"jpeg": arrays["jpeg"]}, "holds no offset, no label, no is_test, but jpeg"),
])
def test_damaged_jpegs(tmp_path, cifar10, damage, message):
    write_jpegs(tmp_path, cifar10, damage)
    with pytest.raises(DataError, match=f"cifar10_jpeg.npz.xz: .*{message}"):
        load("cifar10", tmp_path)


def test_cut_off_jpegs(tmp_path, cifar10):
    write_jpegs(tmp_path, cifar10)
    path = tmp_path / "cifar10_jpeg.npz.xz"
    for cut in (b"", path.read_bytes()[:500]):
        path.write_bytes(cut)
        with pytest.raises(DataError, match="cifar10_jpeg.npz.xz: cut short or damaged"):
            load("cifar10", tmp_path)


def test_pillow_is_named(tmp_path, monkeypatch):
    import sys

    (tmp_path / "cifar10_jpeg.npz.xz").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"Pillow reads: pip install 'neuroflex\[jpeg\]'"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("name, shape, train", [("mnist", (1, 28, 28), 60_000), ("cifar10", (3, 32, 32), 50_000)])
def test_the_real_data(name, shape, train):
    if not os.environ.get("NEUROFLEX_DATA"):
        pytest.skip("NEUROFLEX_DATA names no folder with the data sets")
    found = load(name)
    assert found.x_train.shape == (train, *shape) and found.x_test.shape == (10_000, *shape)
    assert 0.1 < found.x_train.mean() / 255 < 0.6 and np.bincount(found.y_test, minlength=10).min() > 800
