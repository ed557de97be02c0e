"""Training: stages and their checkpoints, resuming, pruning, the QCFS gradient, the networks with names, and the command."""
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neuroflex.cli import main

torch = pytest.importorskip("torch", reason="training needs the `torch` extra")
from torch import nn  # noqa: E402

from neuroflex import data  # noqa: E402
from neuroflex.compiler.network import Network, NetworkError  # noqa: E402
from neuroflex.compiler.torch_calibrate import calibrate  # noqa: E402
from neuroflex.compiler.torch_import import import_torch  # noqa: E402
from neuroflex.compiler.torch_qcfs import QCFS  # noqa: E402
from neuroflex.progress import Silent  # noqa: E402
from neuroflex.sim.split import evaluate  # noqa: E402
from neuroflex.training import loop  # noqa: E402
from neuroflex.training.loop import Checkpoint, TrainingError, accuracy, fingerprint, fit, prunable, prune  # noqa: E402
from neuroflex.training.networks import RECIPES, ResNet  # noqa: E402
from neuroflex.training.settings import Settings  # noqa: E402
from neuroflex.training.stages import train  # noqa: E402

torch.set_num_threads(1)
EPOCHS = ["--epochs", 2, "--tune-epochs", 1, "--batch", 50]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """MNIST in small: the digit n is a bright bar in rows 2n + 4 and 2n + 5."""
    rng = np.random.default_rng(3)
    arrays = {}
    for split, count in (("train", 300), ("test", 60)):
        labels = rng.integers(0, 10, count)
        images = rng.integers(0, 90, (count, 28, 28))
        for image, label in zip(images, labels):
            image[2 * label + 4:2 * label + 6] += 160
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "mnist.npz", **arrays)
    return folder


@pytest.fixture
def bars(folder):
    return data.load("mnist", folder)


class Small(nn.Module):
    """A convolution, an average over more than a tensor's levels hold, a linear layer; ReLUs of two kinds."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 5, stride=2, bias=False), nn.BatchNorm2d(8)
        self.more, self.drop = nn.Conv2d(8, 8, 3, stride=2), nn.Dropout(0.1)
        self.pool = nn.AvgPool2d((1, 5), stride=1)
        self.classes = nn.Linear(40, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = nn.functional.relu(self.more(x))
        return self.classes(torch.flatten(self.pool(self.drop(x)), 1))


SETTINGS = Settings(epochs=3, tune_epochs=2, small_epochs=0, rate=5e-3, tune_rate=2e-3, levels=30, density=0.5, input_levels=15, augment=False, batch=50, seed=4)


class Stop(Exception):
    pass


class StopAt(Silent):
    """Stops the run as the power failing would, in the middle of an epoch."""

    def __init__(self, epoch):
        self.left = epoch

    @contextmanager
    def count(self, text, total):
        self.left -= 1

        def done():
            if not self.left:
                raise Stop
        yield done


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run that nothing stopped."""
    place = tmp_path_factory.mktemp("whole")
    return place, train(Small, data.load("mnist", folder), SETTINGS, name="small", folder=place)


def test_stages(whole, bars):
    place, trained = whole
    assert sorted(path.name for path in place.iterdir()) == ["float.pt", "pruned-0.5.pt", "qcfs-30-0.5.pt"]
    assert {key: len(value) for key, value in trained.losses.items()} == {"float": 3, "pruned": 2, "qcfs": 2}
    for key in ("float", "pruned", "qcfs", "integer"):
        assert trained.accuracies[key] > 0.75
    assert abs(trained.accuracies["integer"] - trained.accuracies["qcfs"]) < 0.05
    assert trained.weights == 200 + 576 + 400 and trained.sparsity == pytest.approx(388 / 1176)
    network = trained.network
    right = (evaluate(network, bars.x_test).output.reshape(60, -1).argmax(axis=1) == bars.y_test).mean()
    assert right == trained.accuracies["integer"] == network.metadata["accuracy_integer"]
    assert network.metadata["levels"] == 30 and network.metadata["data"] == "MNIST, 60 test images" and network.input.levels == 15
    assert [int(layer.levels.max()) for layer in network.layers] == [30, 30, 127, 127]      # the average of 5 × 30 levels gets a QCFS of 127
    assert "qcfs_average1" in [layer.name for layer in network.layers]


@pytest.mark.parametrize("epoch", [1, 3, 4, 7])
def test_a_stopped_run_goes_on_to_the_same_result(whole, bars, tmp_path, epoch):
    with pytest.raises(Stop):
        train(Small, bars, SETTINGS, name="small", folder=tmp_path, show=StopAt(epoch))
    count = []

    class Counting(Silent):
        def count(self, text, total):
            count.append(text)
            return super().count(text, total)

    again = train(Small, bars, SETTINGS, name="small", folder=tmp_path, resume=True, show=Counting())
    assert len(count) == 7 - (epoch - 1) and again.network.digest == whole[1].network.digest
    assert again.losses == whole[1].losses and again.accuracies == whole[1].accuracies
    again = train(Small, bars, SETTINGS, name="small", folder=tmp_path, resume=True, show=Counting())
    assert len(count) == 7 - (epoch - 1) and again.network.digest == whole[1].network.digest


def test_other_levels_start_from_the_same_weights(whole, bars):
    place, trained = whole
    before = (place / "float.pt").read_bytes()
    other = train(Small, bars, replace(SETTINGS, levels="auto", tune_epochs=2), name="small", folder=place, resume=True)
    assert other.losses["float"] == trained.losses["float"] and (place / "float.pt").read_bytes() == before
    levels = [int(layer.levels.max()) for layer in other.network.layers]
    assert max(levels[:2]) <= 8 and (place / "qcfs-auto-0.5.pt").exists()


def test_checkpoints_of_other_settings_are_refused(whole, bars):
    place, _ = whole
    with pytest.raises(TrainingError, match=r"float.pt: made with seed 4, not 5. Give the same to go on, or leave --resume out"):
        train(Small, bars, replace(SETTINGS, seed=5), name="small", folder=place, resume=True)
    with pytest.raises(TrainingError, match="pruned-0.5.pt: made with epochs 2, not 1"):
        train(Small, bars, replace(SETTINGS, tune_epochs=1), name="small", folder=place, resume=True)


@pytest.mark.parametrize("content", [b"", b"no zip file", None])
def test_damaged_checkpoints_are_named(whole, bars, tmp_path, content):
    (tmp_path / "float.pt").write_bytes((whole[0] / "float.pt").read_bytes()[:-500] if content is None else content)
    with pytest.raises(TrainingError, match="float.pt: no checkpoint, or cut short; remove it"):
        train(Small, bars, SETTINGS, name="small", folder=tmp_path, resume=True)


def test_a_checkpoint_that_would_run_code_does_not(tmp_path):
    torch.save({"settings": {}, "module": Path}, tmp_path / "float.pt")
    with pytest.raises(TrainingError, match="no checkpoint"):
        Checkpoint(tmp_path / "float.pt", {}, resume=True).load()


def test_a_loss_that_is_no_number_stops_training(bars, tmp_path):
    with pytest.raises(TrainingError, match="the loss became (nan|inf) in epoch 1; try a lower rate"):
        train(Small, bars, replace(SETTINGS, rate=1e30), name="small", folder=tmp_path)


@pytest.mark.parametrize("make, error, message", [
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), TrainingError, r"the module does not take images of shape \(1, 28, 28\): .*mat1 and mat2"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 9)), TrainingError, r"gives \(16, 9\) for 16 images; one number for each of 10 classes, \(16, 10\), is needed"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(1)), NetworkError, "'2' .Softmax.: only the softmax over the last axis of attention"),
])
def test_modules_that_cannot_be_are_refused_at_once(bars, tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        train(make, bars, SETTINGS, name="small", folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_layers_that_start_at_zero_are_no_dead_ones(bars, tmp_path):
    def make():
        module = nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
        nn.init.zeros_(module[4].weight)
        return module

    assert train(make, bars, replace(SETTINGS, epochs=1, tune_epochs=1, density=1.0), name="small", folder=tmp_path).weights == 784 * 12 + 120


def test_small_and_varied_images():
    """Epochs on half the size; shifted and mirrored images hold the same pixels."""
    seen = []

    class Watching(ResNet):
        def forward(self, x):
            seen.append(tuple(x.shape))
            return super().forward(x)

    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    fit(Watching(16, (3, 3, 3)), images, torch.arange(8), epochs=2, rate=1e-3, scale=1 / 255, batch=4, small_epochs=1, augment=True)
    assert seen == [(4, 3, 16, 16)] * 2 + [(4, 3, 32, 32)] * 2
    torch.manual_seed(0)
    image = torch.zeros(400, 1, 32, 32, dtype=torch.uint8)
    image[:, :, 15, 10] = 7
    varied = loop._varied(image)
    assert varied.shape == image.shape and (varied.sum((1, 2, 3)) == 7).all()
    rows, columns = varied.nonzero()[:, 2], varied.nonzero()[:, 3]
    assert set(rows.tolist()) == set(range(11, 20)) and set(columns.tolist()) == set(range(6, 15)) | set(range(31 - 14, 31 - 5))


def test_pruning_keeps_the_largest():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    largest = module[0].weight.detach().abs().flatten().sort(descending=True).values[:9]
    masks = prune(module, 0.25)
    assert [int(mask.sum()) for mask in masks] == [9, 48]
    assert torch.equal(module[0].weight.detach().abs().flatten().sort(descending=True).values[:9], largest)
    fit(module, torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8), torch.arange(20) % 3, epochs=1, rate=0.1, batch=5, masks=masks)
    assert (prunable(module)[0] != 0).sum() == 9
    before = fingerprint(module)
    with torch.no_grad():
        module[2].bias[0] += 1e-6
    assert fingerprint(module) != before


def test_accuracy():
    module = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        module[1].weight.copy_(torch.eye(2))
    assert accuracy(module, torch.tensor([[[[1, 0]]], [[[0, 1]]], [[[5, 0]]]], dtype=torch.uint8), torch.tensor([0, 1, 1]), batch=2) == pytest.approx(2 / 3)


@pytest.mark.parametrize("levels", [1, 4, 127])
def test_gradient_of_qcfs(levels):
    """As automatic differentiation gives it when the gradient passes the floor."""
    torch.manual_seed(1)
    z = (torch.randn(2, 3, 4, 4, dtype=torch.float64) * 3).to(memory_format=torch.channels_last).requires_grad_()
    qcfs = QCFS(levels, 2.5).double()
    scaled = torch.clamp(z / qcfs.clip, 0, 1) * levels + 0.5
    theirs = qcfs.clip * (scaled + (scaled.floor() - scaled).detach()) / levels
    weights = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    want = torch.autograd.grad((theirs * weights).sum(), (z, qcfs.clip))
    ours = qcfs(z)
    assert torch.equal(ours, theirs.detach()) or torch.allclose(ours, theirs, atol=1e-12)
    for mine, other in zip(torch.autograd.grad((ours * weights).sum(), (z, qcfs.clip)), want):
        assert torch.allclose(mine, other, atol=1e-12)
    fixed = QCFS(levels, 1.0, trained=False).double()
    fixed(z).sum().backward()
    assert fixed.clip.grad is None and z.grad is not None


@pytest.mark.parametrize("name", RECIPES)
def test_networks_with_names_become_integers(name):
    """Untrained: the integer network's classes are those of the QCFS module."""
    torch.manual_seed(2)
    recipe = RECIPES[name]
    shape = data.DATA_SETS[recipe.data][1]
    module = recipe.module()
    images = np.random.default_rng(0).integers(0, 256, (12, *shape)).astype(np.uint8)
    images[:, :, :, ::3] //= 4
    module.train()(torch.from_numpy(images) / 255)          # so that batch norms know something
    quantised = calibrate(module, images, levels=8, input_levels=recipe.settings.input_levels, pixel_scale=1 / 255)
    network = import_torch(quantised, shape, name=name, pixel_scale=1 / 255, calibration=images)
    assert network.input.levels == recipe.settings.input_levels
    with torch.no_grad():
        theirs = quantised(torch.from_numpy(images) / 255)
    ours = evaluate(network, images).output.reshape(12, 10)
    assert np.mean([ours[i, row.argmax()] >= ours[i].max() - 3 for i, row in enumerate(theirs)]) > 0.9
    if name == "cifar10_resnet20":
        assert [layer.name for layer in network.layers[-4:]] == ["qcfs19", "qcfs19_average", "qcfs_average1", "logits"]     # 8×8 in two steps, the first exact
        assert {int(layer.levels.max()) for layer in network.layers[:-3]} == {8} and network.layers[-3].levels.max() == 32 and not network.metadata["import"]["notes"]


@pytest.fixture
def call(capsys, folder, monkeypatch):
    """Runs the command with --json; gives exit code, JSON, and what went to standard error."""
    monkeypatch.setenv("NEUROFLEX_DATA", str(folder))

    def run(*arguments):
        code = main(["train", *map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err
    return run


def test_command(call, tmp_path, capsys):
    out = tmp_path / "made" / "mlp.npz"
    code, answer, err = call("mnist_mlp", "-o", out, *EPOCHS, "--levels", 4)
    assert code == 0 and answer["name"] == "mnist_mlp" and answer["checkpoints"] == str(out.with_suffix(""))
    assert set(answer["accuracy"]) == {"float", "pruned", "qcfs", "integer"} and answer["accuracy"]["integer"] > 0.8
    assert answer["sparsity"] == pytest.approx(0.8, abs=0.01) and [layer["levels"] for layer in answer["layers"]] == [4, 4, 127]
    assert answer["data"] == "MNIST" and "mnist_mlp: train with ReLU, epoch 2 of 2, loss " in err
    network = Network.load(out)
    assert network.digest == answer["digest"] and len(network.examples.test_images) == 32
    code, again, err = call("mnist_mlp", "-o", tmp_path / "again.npz", *EPOCHS, "--levels", 4, "--checkpoints", out.with_suffix(""), "--resume")
    assert code == 0 and again["digest"] == answer["digest"] and "epoch" not in err
    code, answer, _ = call("mnist_mlp", "-o", out, *EPOCHS, "--seed", 9, "--resume")
    assert code == 2 and "made with seed 1, not 9" in answer["error"]
    assert main(["info", str(out)]) == 0 and "accuracy_relu" in capsys.readouterr().out


def test_module_of_your_own(call, tmp_path):
    (tmp_path / "nets.py").write_text("from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, 10))\n")
    code, answer, _ = call(f"{tmp_path / 'nets.py'}:make", "-o", tmp_path / "mine.npz", "--data", "mnist", *EPOCHS, "--levels", "auto", "--input-levels", 15)
    assert code == 0 and answer["name"] == "mine" and answer["accuracy"]["pruned"] is None and answer["sparsity"] < 0.01
    assert Network.load(tmp_path / "mine.npz").metadata["levels"] == "auto"
    code, calibrated, _ = call(f"{tmp_path / 'nets.py'}:make", "-o", tmp_path / "mine.npz", "--data", "mnist", *EPOCHS, "--tune-epochs", 0, "--resume")
    assert code == 0 and calibrated["losses"] == {"float": answer["losses"]["float"], "qcfs": []} and calibrated["accuracy"]["float"] == answer["accuracy"]["float"]


def test_wrong_calls(call, tmp_path, monkeypatch):
    for arguments, message in ((["vgg99"], "'vgg99' is neither a network with a name (mnist_mlp, mnist_lenet5, cifar10_resnet18, cifar10_resnet20, cifar10_vgg11, cifar10_vit, cifar10_vgg11_quarter) nor"),
                               ([f"{tmp_path / 'nets.py'}:make"], "give --data"), ([f"{tmp_path / 'nets.py'}:make", "--data", "mnist"], "no such file"),
                               (["mnist_mlp", "--levels", "128"], "levels must be 1 … 127, or auto"), (["mnist_mlp", "--levels", "few"], "or auto, not 'few'"),
                               (["mnist_mlp", "--density", "0"], "density"), (["cifar10_resnet20"], "cifar10 is not in"),
                               (["mnist_mlp", "--rate", "1e30"], "the loss became")):
        code, answer, _ = call(*arguments, "-o", tmp_path / "no.npz")
        assert code == 2 and message in answer["error"], answer
    monkeypatch.delenv("NEUROFLEX_DATA")
    code, answer, _ = call("mnist_mlp", "-o", tmp_path / "no.npz")
    assert code == 2 and "set NEUROFLEX_DATA to a folder" in answer["error"] and not (tmp_path / "no.npz").exists()
