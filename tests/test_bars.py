"""Figures that must not get worse, on the golden model, which `tb/test_top.py` holds equal to the RTL in every cycle.

Those of the README are 1 % better at the most; nothing here depends on how fast the host is.
"""
import numpy as np
import pytest

from neuroflex import zoo
from neuroflex.config import PRESETS
from neuroflex.flow import compile_network, energy_pj, simulate_model, utilisation
from neuroflex.measure import measure_layer
from neuroflex.sim.network import quantise

PAPER = PRESETS["paper"]     # 256 columns are 8 for each processing element


def layer(policy, activation_density, weight_density):
    return measure_layer(PAPER, rows=64, inputs=1152, columns=256, activation_density=activation_density, weight_density=weight_density, kernel=3, seed=1,
                         policy=policy, rtl=False)["model"]


@pytest.mark.long
@pytest.mark.parametrize("densities,least", [((0.3, 0.3), 0.99), ((0.26, 0.02), 0.895)], ids=str)
def test_elements_are_busy(densities, least):
    """Matches per PE and cycle of running layers, on both cores."""
    assert min(layer("balanced", *densities)["utilisation"].values()) >= least


@pytest.mark.long
def test_longest_first_beats_random_mapping():
    """Matches per cycle of running layers, of both cores together."""
    speed = {policy: sum(layer(policy, 0.3, 0.3)["utilisation"].values()) for policy in ("balanced", "random")}
    assert speed["balanced"] >= 1.84 * speed["random"]


@pytest.mark.long
def test_digits(digits):
    """Hybrid's energy-delay product is not above the better single mode's; the elements do not idle more than they did."""
    config, edp, sums = PRESETS["tiny"], {}, 0
    tensors = quantise(digits.input, digits.examples.test_images[:10])
    for policy in ("hybrid", "all_ann", "all_snn"):
        job = compile_network(digits, config, policy=policy)
        results = [simulate_model(job, tensor) for tensor in tensors]
        edp[policy] = np.mean([energy_pj(job, tensor) * result.cycles for tensor, result in zip(tensors, results)])
        if policy == "hybrid":
            sums = np.sum([result.layers for result in results], axis=0)
    assert edp["hybrid"] <= min(edp["all_ann"], edp["all_snn"])
    busy = utilisation(sums, config)
    assert busy["ann"] >= 0.75 and busy["snn"] >= 0.75


@pytest.mark.parametrize("name, config", [("digits", "tiny"), ("digits", "pynq_z2"), ("mnist_lenet5", "pynq_z2")])
def test_measured_split_is_not_above_a_single_core(name, config):
    """On an image that the choice was not made with."""
    network = zoo.load(name)
    tensor = quantise(network.input, network.examples.test_images[:1])[0]
    edp = {}
    for policy in ("measured", "all_ann", "all_snn"):
        job = compile_network(network, PRESETS[config], policy=policy)
        edp[policy] = energy_pj(job, tensor) * simulate_model(job, tensor).cycles
    assert edp["measured"] <= 1.01 * min(edp["all_ann"], edp["all_snn"])
