"""Calibration of ReLU networks: accuracy on real digits, clip values, and refusals."""
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="calibration needs the `torch` extra")
from sklearn.datasets import load_digits  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from neuroflex.compiler.network import NetworkError  # noqa: E402
from neuroflex.compiler.torch_calibrate import best_clip, calibrate, choose  # noqa: E402
from neuroflex.compiler.torch_import import import_torch  # noqa: E402
from neuroflex.compiler.torch_qcfs import QCFS  # noqa: E402
from neuroflex.sim.network import evaluate  # noqa: E402


torch.set_num_threads(1)


class Inception(nn.Module):
    """Parallel branches, a residual connection, depthwise convolution: ReLUs as module, function and method."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.one, self.three = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise, self.back = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 1)
        self.relu, self.pool, self.drop = nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1)
        self.classes = nn.Linear(16 * 16, 10)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        x = self.pool(torch.cat([functional.relu(self.one(x)), self.three(x).relu()], 1))
        x = torch.relu(self.back(torch.relu(self.depthwise(x))) + x)
        return self.classes(torch.flatten(self.drop(x), 1))


@pytest.fixture(scope="module")
def trained():
    """The module after a few epochs, and 400 test digits."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.uint8)
    torch.manual_seed(0)
    module = Inception()
    x, y = torch.tensor(images[:1300] / 16, dtype=torch.float32), torch.tensor(labels[:1300])
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(6):
        for part in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            functional.cross_entropy(module(x[part]), y[part]).backward()
            optimiser.step()
    return module.eval(), images[:300], images[1397:], labels[1397:]


@pytest.mark.parametrize("levels, lost", [(15, 0.01), (8, 0.02), (4, 0.08)])
def test_digits_by_calibration_alone(trained, levels, lost):
    module, seen, images, labels = trained
    with torch.no_grad():
        theirs = module(torch.tensor(images / 16, dtype=torch.float32)).argmax(1).numpy()
    assert (theirs == labels).mean() > 0.9
    quantised = calibrate(module, seen, levels=levels, input_levels=16, pixel_scale=1 / 16)
    assert sum(isinstance(m, QCFS) for m in quantised.modules()) == 6 and not any(isinstance(m, QCFS) for m in module.modules())
    with torch.no_grad():
        middle = quantised(torch.tensor(images / 16, dtype=torch.float32)).argmax(1).numpy()
    network = import_torch(quantised, (1, 8, 8), name="inception", pixel_scale=1 / 16, calibration=seen)
    assert len(network.concats) == 1 and {int(layer.levels.max()) for layer in network.layers[:-1]} == {levels}
    ours = evaluate(network, images).output.reshape(len(images), -1).argmax(axis=1)
    assert (ours == middle).mean() > 0.96
    assert (ours == labels).mean() >= (theirs == labels).mean() - lost


def test_best_clip_of_known_histograms():
    values = (np.arange(1000) + 0.5) / 1000
    assert best_clip(values, np.ones(1000), 100)[0] > 0.95          # many levels: nothing need be clipped
    outliers = np.where(values < 0.1, 1000.0, 0.001)
    assert 0.08 < best_clip(values, outliers, 4)[0] < 0.13           # few levels: the rare large values are


def test_adaptive_levels(trained):
    values = (np.arange(1000) + 0.5) / 1000
    two = np.where(abs(values - 0.5) < 0.01, 1.0, 0.0)
    assert choose(values, two, 15, 0.01)[0] == 1                 # one value besides 0: one level says it
    found = [choose(values, np.ones(1000), 15, tolerance)[0] for tolerance in (0.2, 0.05, 0.02, 0.005, 1e-6)]
    assert found == sorted(found) and found[0] == 1 and found[-1] == 15 and len(set(found)) > 3
    module, seen, images, labels = trained
    quantised = calibrate(module, seen, levels=15, tolerance=0.03, input_levels=16, pixel_scale=1 / 16)
    network = import_torch(quantised, (1, 8, 8), name="adaptive", pixel_scale=1 / 16, calibration=seen)
    levels = [int(layer.levels.max()) for layer in network.layers[:-1]]
    assert len(set(levels)) > 1 and max(levels) <= 15
    right = (evaluate(network, images).output.reshape(len(images), -1).argmax(axis=1) == labels).mean()
    assert right > 0.88
    with pytest.raises(NetworkError, match="tolerance must be a share of the squared activation between 0 and 1, not 2"):
        calibrate(module, seen, levels=15, tolerance=2)


def bare(**parts):
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())


class Mobile(nn.Module):
    """ReLU6 as module, function and in place, with activations far above 6, and an addition in place."""

    def __init__(self, relu):
        super().__init__()
        self.stem, self.depthwise, self.back = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.classes, self.relu, self.function = nn.Linear(8 * 36, 10), relu(inplace=True), functional.relu6 if relu is nn.ReLU6 else functional.relu
        with torch.no_grad():
            self.stem.weight *= 20
            self.back.weight *= 20

    def forward(self, x):
        x = self.function(self.stem(x))
        y = self.back(self.relu(self.depthwise(x)))
        y += x
        return self.classes(torch.flatten(self.relu(y), 1))


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_wrong_pixel_scales(value):
    module, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU()), np.ones((3, 1, 2, 2))
    for run in (lambda: calibrate(module, images, levels=4, pixel_scale=value), lambda: import_torch(module, (1, 2, 2), name="scale", pixel_scale=value)):
        with pytest.raises(NetworkError, match=f"the image: pixel_scale must be a positive number, not {value!r}"):
            run()


def test_relu6_is_calibrated_below_its_six():
    torch.manual_seed(0)
    module, plain = Mobile(nn.ReLU6).eval(), Mobile(nn.ReLU).eval()
    plain.load_state_dict(module.state_dict())
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 6, 6)).astype(np.uint8)
    with torch.no_grad():
        theirs, others = (one(torch.tensor(images / 255, dtype=torch.float32)).argmax(1).numpy() for one in (module, plain))
    assert (theirs == others).mean() < 0.7, "the comparison shows nothing"
    quantised = calibrate(module, images, levels=127, pixel_scale=1 / 255)
    assert max(part.clip.item() for name, part in quantised.named_modules() if isinstance(part, QCFS)) <= 6.0
    network = import_torch(quantised, (3, 6, 6), name="mobile", pixel_scale=1 / 255, calibration=images)
    assert (evaluate(network, images).output.reshape(len(images), -1).argmax(axis=1) == theirs).mean() > 0.9


def test_a_relu_in_place_before_a_shortcut_is_refused():
    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.relu, self.conv = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            x = self.stem(x)
            return self.conv(self.relu(x)) + x

    with pytest.raises(NetworkError, match=r"'relu' \(ReLU\): it changes 'stem' in place, which 'add' reads afterwards"):
        calibrate(PreActivation(), np.ones((2, 1, 8, 8)), levels=4)


def test_a_hook_is_refused_before_anything_is_copied():
    module = bare()
    prune.l1_unstructured(module[0], "weight", 0.5)
    with pytest.raises(NetworkError, match=r"'0' \(Conv2d\): it is pruned by a hook"):
        calibrate(module, np.ones((2, 1, 8, 8)), levels=4)


@pytest.mark.parametrize("images, message", [
    (np.zeros((0, 1, 8, 8)), "the calibration set is empty: give at least one image"),
    (np.full((1, 1, 8, 8), np.nan), "finite pixels that are not negative"),
    (np.full((1, 1, 8, 8), -1.0), "finite pixels that are not negative"),
    (np.zeros((1, 1, 8, 8)), "not all 0"),
    (np.ones((2, 3, 8, 8)), r"the module does not take calibration images of shape \(3, 8, 8\): .*channels"),
])
def test_images_that_are_refused(images, message):
    with pytest.raises(NetworkError, match=message):
        calibrate(bare(), images, levels=4)


def test_dead_and_broken_layers_are_named():
    images = np.ones((2, 1, 8, 8))
    dead, broken = bare(), bare()
    with torch.no_grad():
        dead[0].weight.fill_(-1.0)
        broken[0].weight.fill_(float("nan"))
    with pytest.raises(NetworkError, match="'_1': its operand is never positive on the calibration images"):
        calibrate(dead, images, levels=4)
    with pytest.raises(NetworkError, match="'_1': its operand is NaN or infinite"):
        calibrate(broken, images, levels=4)


def test_a_relu_that_was_not_calibrated_says_what_to_do():
    with pytest.raises(NetworkError, match=r"'1' \(ReLU\): .*calibrate the network first"):
        import_torch(nn.Sequential(QCFS(4), nn.ReLU()), (1, 8, 8), name="relu")


@pytest.mark.parametrize("value, message", [(float("nan"), "1 of its 18 weights are NaN or infinite"), (float("inf"), "1 of its 18 weights are NaN or infinite")])
def test_weights_that_are_no_numbers_are_refused(value, message):
    module = nn.Sequential(QCFS(4), nn.Conv2d(1, 2, 3), QCFS(4))
    with torch.no_grad():
        module[1].weight[0, 0, 0, 0] = value
    with pytest.raises(NetworkError, match=r"'1' \(Conv2d\): " + message):
        import_torch(module, (1, 8, 8), name="nan")


@pytest.mark.parametrize("shape, message", [((8, 8), r"the image: its shape must be \(C, H, W\)"), ((0, 8, 8), "the image: its shape"),
                                            ((3, 8, 8), r"does not fit 3 input channels")])
def test_wrong_image_shapes(shape, message):
    with pytest.raises(NetworkError, match=message):
        import_torch(nn.Sequential(QCFS(4), nn.Conv2d(1, 2, 3), QCFS(4)), shape, name="shape")
