"""FiberCache and compressor for `measure_energy`: their traffic, what the energy of a stretch of it is explained by, and their coefficients."""
from collections import Counter

import numpy as np

from neuroflex.config import PRESETS
from neuroflex.hdl.compressor import Compressor
from neuroflex.hdl.fibercache import FiberCache
from neuroflex.power.sram import access_energy
from neuroflex.sim.compressor import compressor_init
from neuroflex.sim.fibercache import cache_init
from neuroflex.tb.cache_traffic import INPUTS, OUTPUTS, traffic, vectors
from neuroflex.tb.compressor_traffic import Layer, run_layer

__all__ = ["BLOCKS", "CONFIG", "EVENTS", "block_coefficients", "cache_traffic", "compressor_traffic"]

# One of each for all PEs, whose sizes do not follow from those of a smaller one: they are measured as they are in this preset.
CONFIG = PRESETS["paper"]
EVENTS = {
    "FiberCache": {"read": "lines read", "write": "lines written", "fetch": "fetches: chunks announced", "fill": "lines from memory", "cycle": "cycles"},
    "Compressor": {"round": "rounds: an output of each PE of a core", "line": "lines written", "cycle": "cycles in which its pipeline moves"},
}
STRETCH = 400           # cycles of one kind of cache traffic
_SPACE = 4_000          # lines that the cache is used with: a quarter of what it holds, so that most reads find theirs
_BASE = 0x2A5 << 10     # of their addresses
_TOP = 8                # levels


def _lines(rng, count, config):
    """Lines as the cache holds them: three of four are packed levels q as likely as 0.6^q, the others masks of random densities; uint64[count, words]."""
    levels = np.minimum(rng.geometric(0.4, (count, config.line_bytes)), _TOP).astype(np.uint8)
    masks = np.packbits(rng.random((count, config.chunk_bits)) < rng.uniform(0.05, 0.6, (count, 1)), axis=1)
    chosen = np.where(rng.random((count, 1)) < 0.25, masks, levels)
    return np.pad(chosen, ((0, 0), (0, -config.line_bytes % 8))).view(np.uint64)


def cache_traffic(config, seed, stretches):
    """Traffic of the cache: ``(stimulus, expected, where, runs, counts, accesses)``.

    Each stretch draws how busy each client is, on how many lines; most reads and fetches go on with the line after. ``runs`` are (first, last cycle) and ``counts``
    the events of each; ``accesses`` those of the memory of the lines by name, which the circuit reads in every cycle: what counts is what is used.
    """
    rng = np.random.default_rng([seed, 7])
    knobs = np.array([[rng.choice([0, 50, 200, 500]), rng.choice([0, 200, 500, 900]), rng.choice([0, 0, 100, 300, 800]), rng.choice([0, 0, 0, 0, 0, 1000]), rng.choice([0, 0, 0, 100]),
                       1000, 1000, 900, 900, 0, 20, rng.choice([200, 1000, _SPACE]), 1] for _ in range(64)])
    cycles = STRETCH * stretches
    ins, outs, _, verdict = traffic(cache_init(config), cycles, knobs, _SPACE, seed, 0)
    if verdict[0] >= 0:
        raise SystemExit(f"the cache's model gave a wrong line in cycle {verdict[0]}")
    stimulus, expected, where = vectors(config, ins, outs, seed, lines=_lines(rng, _SPACE + cycles, config), base=_BASE)
    i, o = dict(zip(INPUTS, ins.T)), dict(zip(OUTPUTS, outs.T))
    each = {"read": i["read_valid"] & o["read_ready"], "write": i["write_valid"] & o["write_ready"], "fetch": i["fetch_valid"] & o["fetch_ready"],
            "fill": i["data_valid"] & o["data_ready"], "cycle": np.ones(cycles, int)}
    runs = [(begin, begin + STRETCH) for begin in range(STRETCH, cycles, STRETCH)]        # the first one clears the sets
    counts = [{name: int(values[begin:end].sum()) for name, values in each.items()} for begin, end in runs]
    return stimulus, expected, where, runs, counts, {"banks.lines": o["hit"] + o["eviction"]}


def compressor_traffic(config, seed, layers):
    """Layers for the compressor, in the form of `cache_traffic`: levels up to 8, arrays of all speeds, a cache that holds it up or not."""
    rng, state, cover = np.random.default_rng([seed, 8]), compressor_init(config), Counter()
    parts, runs, counts = [], [], []
    for _ in range(layers):
        layer = Layer(rng, config, cover, top=_TOP)
        stimulus, expected, moved = run_layer(rng, layer, state, cover, quiet=True)
        begin = runs[-1][1] if runs else 0
        runs.append((begin, begin + len(stimulus["start"])))
        counts.append({"round": layer.nonzeros.size, "line": len(layer.lines), "cycle": moved})
        parts.append((stimulus, expected))
    stimulus, expected = ({name: np.concatenate([part[side][name] for part in parts]) for name in parts[0][side]} for side in range(2))
    return stimulus, expected, {"write__payload": expected["write__valid"] == 1}, runs, counts, {}


# Component, traffic, and for how many stretches of it.
BLOCKS = {"FiberCache": (FiberCache, cache_traffic, 100), "Compressor": (lambda config: Compressor(config=config), compressor_traffic, 40)}


def block_coefficients(blocks):
    """Coefficients of the table by name, (pJ, standard error), from the blocks' results; reads and writes of the lines' memory apart."""
    found = {}
    for block, prefix in (("FiberCache", "cache_"), ("Compressor", "pack_")):
        for event in EVENTS[block]:
            kinds = [blocks[block][kind] for kind in ("logic", "memory")]
            found[prefix + event] = np.array([sum(one["pj"][event] for one in kinds), sum(one["error"][event] for one in kinds)])
    line = access_energy(CONFIG.cache_sets * CONFIG.cache_ways, CONFIG.chunk_bits)
    return found | {"cache_line": np.array([line, 0.0])}
