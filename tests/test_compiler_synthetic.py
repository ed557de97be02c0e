"""Synthetic layers have the sizes and densities asked for; random networks visit the format's corners."""
import numpy as np
import pytest

from neuroflex.compiler.network import Network, NetworkError
from neuroflex.compiler.synthetic import random_images, random_network, synthetic_layer
from neuroflex.sim.network import evaluate


def test_synthetic_layer():
    options = {"rows": 30, "inputs": 256, "columns": 64, "activation_density": 0.3, "weight_density": 0.1, "levels": 4}
    network, tensor = synthetic_layer(seed=1, **options)
    trace = evaluate(network, tensor, quantised=True).layers["layer"]
    assert tensor.shape == (1, 256, 6, 5) and trace.rows == 30
    assert network.layers[0].weights.shape == (256, 64)
    assert abs(trace.density - 0.3) < 0.03 and abs(trace.weight_density - 0.1) < 0.01
    assert set(np.unique(tensor)) == set(range(5)) == set(np.unique(trace.output))
    again, same = synthetic_layer(seed=1, **options)
    assert again.to_bytes() == network.to_bytes() and np.array_equal(same, tensor)
    with pytest.raises(NetworkError, match="weight_density must be in 0 … 1, not 1.5"):
        synthetic_layer(**options | {"weight_density": 1.5})


def test_random_networks_visit_the_corners():
    seen = set()
    for seed in range(300):
        network = random_network(seed)
        layers = network.layers
        seen |= {f"{len(layers)} layers", f"packed {network.input.pack is not None}"}
        for layer in layers:
            seen |= {f"{len(layer.sources)} sources", f"pool {max(layer.pool_h, layer.pool_w)}", f"stride {layer.sources[0].stride}",
                     f"padding {min(layer.sources[0].padding, 1)}"}
            if layer.sources[0].kernel_h > 3:
                seen.add("large kernel")
            if len(layer.sources) == 2 and layer.sources[1].repeat == 3:
                seen.add("repeat")
            held = np.count_nonzero(layer.weights, axis=0)
            if (held == 0).any() and (held == len(layer.weights)).any():
                seen.add("empty and full columns")
            if (layer.theta == 1).any() and layer.weights.min() == -128 and layer.weights.max() == 127:
                seen.add("extremes")
            if layer.levels.min() == 1 and layer.levels.max() > 15:
                seen.add("1 and many levels")
    expected = {"1 layers", "2 layers", "3 layers", "packed True", "packed False", "1 sources", "2 sources", "pool 1", "pool 2",
                "stride 1", "stride 2", "padding 0", "padding 1", "large kernel", "repeat", "empty and full columns", "extremes",
                "1 and many levels"}
    assert expected <= seen, expected - seen


@pytest.mark.parametrize("seed", range(30))
def test_random_networks_evaluate_alike_as_spikes_and_survive_the_file(seed):
    network = random_network(seed, size=5, channels=12)
    images = random_images(network, 3, seed=seed)
    assert not images[0].any() and images[1].min() == 255
    trace = evaluate(network, images)
    spikes = {layer.name: layer.levels <= 15 for layer in network.layers}
    assert np.array_equal(trace.output, evaluate(network, images, snn_columns=spikes).output)
    assert np.array_equal(trace.output, evaluate(Network.from_bytes(network.to_bytes()), images).output)
