"""Jobs for the benches of the whole accelerator: random networks, images, configurations."""
from neuroflex.compiler.synthetic import random_images, random_network
from neuroflex.config import ArchConfig
from neuroflex.flow import compile_network
from neuroflex.sim.network import quantise

__all__ = ["random_config", "random_job"]


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


def random_config(rng, chunk_bits):
    """A small random configuration with every parameter drawn; slices are large enough for the networks of :func:`random_job`."""
    def power(low, high):
        return 1 << int(rng.integers(low.bit_length() - 1, high.bit_length()))

    pes = [power(2, 4), power(2, 4)]
    return ArchConfig(
        name="random", chunk_bits=chunk_bits, ann_pes=pes[0], snn_pes=pes[1], slots=power(2, 8), columns_per_pe=power(4, 16),
        row_buffers=power(2, 8), value_lines=8192 // chunk_bits * 8, mask_pairs=1024, laggy_adders=power(4, chunk_bits),
        snn_levels=int(rng.integers(1, 16)), ann_acc_bits=32, snn_acc_bits=26, theta_bits=int(rng.integers(22, 29)),
        neuron_steps=int(rng.integers(1, 5)), cache_banks=power(2, 8), cache_ways=power(2, 8), cache_sets=power(4, 32),
        fetch_ahead=power(2, 32), pending_lines=power(16, 64), write_buffer=power(2, 16), address_bits=int(rng.integers(18, 25)))
