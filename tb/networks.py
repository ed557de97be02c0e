"""Jobs for the benches of the whole accelerator: random networks, images, configurations, memories."""
import numpy as np

from neuroflex.compiler.synthetic import random_images, random_network
from neuroflex.config import ArchConfig
from neuroflex.flow import compile_network
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import quantise

__all__ = ["CORNERS", "MEMORIES", "memory_of", "random_config", "random_job"]

# Configurations at the ends of what ArchConfig allows, several ends in each so that few builds are needed.
CORNERS = {
    "least": ArchConfig(
        name="least", chunk_bits=32, ann_pes=2, snn_pes=2, slots=2, columns_per_pe=2, row_buffers=2, value_lines=256, mask_pairs=128,
        laggy_adders=32, snn_levels=1, ann_acc_bits=28, snn_acc_bits=22, theta_bits=24, neuron_steps=1, cache_banks=2, cache_ways=2,
        cache_sets=4, fetch_ahead=2, pending_lines=16, write_buffer=2, address_bits=14),
    "most": ArchConfig(
        name="most", chunk_bits=32, ann_pes=4, snn_pes=2, slots=16, columns_per_pe=64, row_buffers=8, value_lines=4096, mask_pairs=2048,
        snn_pe="dual_prefix", laggy_adders=4, snn_levels=15, ann_acc_bits=40, snn_acc_bits=32, theta_bits=31, neuron_steps=4, cache_banks=2, cache_ways=16,
        cache_sets=4, fetch_ahead=64, pending_lines=32, write_buffer=32, address_bits=32),
    "groups": ArchConfig(
        name="groups", chunk_bits=64, ann_pes=8, snn_pes=8, slots=2, columns_per_pe=4, row_buffers=2, value_lines=256, mask_pairs=128,
        laggy_adders=64, cache_banks=2, cache_ways=2, cache_sets=32, pending_lines=16, address_bits=20),
    "wide": ArchConfig(
        name="wide", chunk_bits=256, ann_pes=2, snn_pes=2, slots=2, columns_per_pe=4, row_buffers=2, value_lines=256, mask_pairs=256,
        snn_pe="dual_prefix", laggy_adders=64, cache_banks=2, cache_ways=2, cache_sets=16, pending_lines=16, address_bits=20),
}


def _runs(*lengths):
    """Stretches of 1 and 0 by turns, of these lengths."""
    return np.repeat(np.arange(len(lengths)) % 2 == 0, lengths)


def _memory(ready, latency, answer):
    return MemoryTrace(ready, ready, ready, np.atleast_1d(latency), answer)


# Memories by name; each takes a generator, which only the random ones use.
MEMORIES = {
    "at once": lambda rng: MemoryTrace.constant(1),
    "far": lambda rng: MemoryTrace.constant(60),
    "random, near": lambda rng: MemoryTrace.random(rng, most=8),
    "random": lambda rng: MemoryTrace.random(rng),
    "bursts": lambda rng: _memory(_runs(*rng.integers(20, 200, 32)), rng.integers(1, 120, 61), 40),
    "alternating": lambda rng: _memory(_runs(1, 1), [1, 40], 3),
}


def memory_of(seed):
    """The memory of a case: each kind in turn, random ones by the seed."""
    return list(MEMORIES.values())[seed % len(MEMORIES)](np.random.default_rng(seed))


def random_job(seed, config, *, policy, **limits):
    """A random network lowered for a configuration, and an image of its own: ``(job, levels uint8[C, H, W])``.

    Parameters
    ----------
    seed : int
    config : ArchConfig
    policy : str
        One of :data:`neuroflex.flow.POLICIES`.
    limits
        For :func:`~neuroflex.compiler.synthetic.random_network`.
    """
    network = random_network(seed, **{"snn_levels": config.snn_levels} | limits)
    images = random_images(network, 4, seed=seed)
    job = compile_network(network, config, policy=policy, seed=seed, calibration=images[2:])
    # The empty and the full image now and then.
    return job, quantise(network.input, images[seed % 8 if seed % 8 < 2 else 3][None])[0]


def random_config(rng, chunk_bits, snn_pe):
    """A small random configuration with every other parameter drawn; slices are large enough for the networks of :func:`random_job`.

    Wide chunks come with few PEs and small tables, so that building them takes a minute or two.
    """
    wide = chunk_bits > 32
    def power(low, high):
        return 1 << int(rng.integers(low.bit_length() - 1, high.bit_length()))

    pes = [2, 2] if chunk_bits > 64 else [power(2, 4), 2] if wide else [power(2, 4), power(2, 4)]
    return ArchConfig(
        name="random", chunk_bits=chunk_bits, ann_pes=pes[0], snn_pes=pes[1], slots=power(2, 4 if wide else 8), columns_per_pe=power(4, 16),
        row_buffers=power(2, 4 if wide else 8), value_lines=8192 // chunk_bits * 8, mask_pairs=1024, snn_pe=snn_pe,
        laggy_adders=power(4, chunk_bits),
        snn_levels=int(rng.integers(1, 16)), ann_acc_bits=32, snn_acc_bits=26, theta_bits=int(rng.integers(22, 29)),
        neuron_steps=int(rng.integers(1, 5)), cache_banks=power(2, 4), cache_ways=power(2, 4 if wide else 8), cache_sets=power(4, 32),
        fetch_ahead=power(2, 32), pending_lines=power(16, 16 if wide else 64), write_buffer=power(2, 16), address_bits=int(rng.integers(18, 25)))
