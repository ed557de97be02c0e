"""Geometry check against its model: both verdicts in every cycle.

Test plan
---------
* Cases in a row and with gaps, in any order, other settings in every cycle; verdicts forgotten at any time, also in the cycle in which one comes.
* Tensors that end at the last line of memory, one line beyond, far beyond; products of more bits than an address has; empty and absent ones.
* Output sizes that follow exactly or with a rest, that are one too large or too small, of kernels larger than the source, with stride
  and pool 0 and 15.
* Coverage: the points of ``situations``; a thin one fails.
* Faults: a tensor's end, a product's high half or upper bits, the rest of an output size that are not looked at.
"""
import gc

import numpy as np
import pytest

from neuroflex.config import PRESETS, ArchConfig
from neuroflex.eda import lint, to_verilog
from neuroflex.formats import CHUNK_LINES
from neuroflex.hdl.geometry import GEOMETRY_LATENCY, GeometryCheck
from neuroflex.layouts import settings_layout
from neuroflex.sim.geometry import EXTENT_LATENCY, SIZE_LATENCY, geometry_verdicts, output_size, tensor_end
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.bits import concat
from neuroflex.tb.coverage import Coverage

TINY, PAPER = PRESETS["tiny"], PRESETS["paper"]
NARROW, WIDE = (ArchConfig(name=f"address{bits}", address_bits=bits) for bits in (14, 32))
TENSORS = ("source0", "source1", "out")


def inputs(config, rng, cycles):
    """The block's inputs in every cycle, as the model takes them."""
    space = 1 << config.address_bits
    settings = {name: rng.integers(0, 1 << field.width, cycles) for name, field in settings_layout(config)}

    def some(share):
        return rng.random(cycles) < share

    for tensor in TENSORS:
        # A tensor from one spine to all of memory, which ends at its last line, around it, or anywhere.
        height, width = (np.maximum(1, (2.0 ** rng.uniform(0, 8, cycles)).astype(np.int64)) for _ in range(2))
        chunks = np.clip(space * rng.choice([0.01, 0.5, 1.0], cycles) / (height * width * CHUNK_LINES), 1, 4095).astype(np.int64)
        base = space - height * width * chunks * CHUNK_LINES + rng.choice([0, 0, 1, -1, -7, 1000, -1000], cycles)
        for name, values in (("height", height), ("width", width), ("chunks", chunks), ("base", base % (1 << 32))):
            settings[f"{tensor}_{name}"] = np.where(some(0.8), values, settings[f"{tensor}_{name}"])
        settings[f"{tensor}_{rng.choice(['height', 'width', 'chunks'])}"][some(0.05)] = 0
        settings[f"{tensor}_height"][some(0.02)] = 0
    for source in (0, 1):
        # Possible windows, and output sizes that follow from this source's rows, columns, or nearly.
        usual = some(0.8)
        for name in ("kernel_h", "kernel_w", "stride"):
            settings[f"source{source}_{name}"] = np.where(usual, rng.integers(1, 8, cycles), settings[f"source{source}_{name}"])
        settings[f"source{source}_pad"] = np.where(usual, rng.integers(0, 4, cycles), settings[f"source{source}_pad"])
    for direction in ("h", "w"):
        settings[f"pool_{direction}"] = np.where(some(0.8), rng.integers(1, 4, cycles), settings[f"pool_{direction}"])
    for direction, size in (("h", "height"), ("w", "width")):
        source = rng.integers(0, 2, cycles)
        of = {name: np.where(source == 0, settings[f"source0_{name}"], settings[f"source1_{name}"])
              for name in (size, f"kernel_{direction}", "stride", "pad")}
        follows = output_size(of[size], of[f"kernel_{direction}"], np.maximum(of["stride"], 1), of["pad"], np.maximum(settings[f"pool_{direction}"], 1))
        follows = np.clip(follows + rng.choice([0, 0, 0, 1, -1], cycles), 0, 65535)
        settings[f"out_{size}"] = np.where(some(0.7), follows, settings[f"out_{size}"])
    phase = np.repeat(rng.choice([0.02, 0.5, 1.0], -(-cycles // 100)), 100)[:cycles]
    return {"clear": some(0.4), "valid": rng.random(cycles) < phase, "case": rng.integers(0, 4, cycles), "settings": settings}


def situations(config, given, wrong):
    """Coverage points of a run."""
    clear, valid, case, settings = (given[name] for name in ("clear", "valid", "case", "settings"))
    space, points = 1 << config.address_bits, {}
    for number, tensor in enumerate(TENSORS):
        height, width, chunks = (settings[f"{tensor}_{name}"] for name in ("height", "width", "chunks"))
        here, end = valid & (case == number), tensor_end(settings[f"{tensor}_base"] % space, height, width, chunks)
        points |= {f"{tensor} ends with memory": here & (end == space), f"{tensor} ends one line beyond": here & (end == space + 1),
                   f"{tensor} ends far beyond": here & (end > 2 * space), f"{tensor} fits": here & (height > 0) & (end < space),
                   f"{tensor} absent": here & (height == 0), f"{tensor} empty": here & (height > 0) & (width * chunks == 0)}
    for number in range(4):
        source, (size, direction) = number // 2, (("height", "h"), ("width", "w"))[number % 2]
        n, kernel, stride, pad = (settings[f"source{source}_{name}"] for name in (size, f"kernel_{direction}", "stride", "pad"))
        pool, out = settings[f"pool_{direction}"], settings[f"out_{size}"]
        here = valid & (case == number) & (settings[f"source{source}_height"] > 0)
        rest = n + 2 * pad + stride - kernel - out * stride * pool
        name = f"{size} of source {source}"
        points |= {f"{name} exact": here & (rest == 0) & (stride * pool > 0), f"{name} with the largest rest": here & (rest == stride * pool - 1),
                   f"{name} too large": here & (rest < 0), f"{name} too small": here & (rest >= stride * pool) & (stride * pool > 0),
                   f"{name} without step": here & (stride * pool == 0), f"{name} below the kernel": here & (n + 2 * pad < kernel)}
    for name, verdict in zip(("source", "output"), wrong):
        points |= {f"{name} wrong": verdict, f"{name} forgotten": verdict[:-1] & ~verdict[1:],
                   f"{name} wrong right behind clear": ~verdict[:-1] & verdict[1:] & clear[:-1]}
    return points


def case(config, seed, cycles, coverage=None):
    given = inputs(config, np.random.default_rng(seed), cycles)
    wrong = geometry_verdicts(config, **given)
    if coverage is not None:
        coverage.add(**situations(config, given, wrong))
    settings = concat(*((given["settings"][name], field.width) for name, field in settings_layout(config)))
    stimulus = {name: np.asarray(given[name], np.int64) for name in ("clear", "valid")} | {"index": given["case"], "settings": settings}
    return stimulus, {name: verdict.astype(np.int64) for name, verdict in zip(("source_wrong", "output_wrong"), wrong)}


def bench(config, **options):
    return Bench(GeometryCheck(config=config), "geometry_check", **options)


@pytest.mark.parametrize("config", [TINY, WIDE], ids=lambda config: config.name)
def test_random_cases(config):
    coverage = Coverage(f"geometry, {config.name}")
    stimulus, expected = case(config, 91, 30_000, coverage)
    print(f"seed 91, {config.name}: {coverage.hits}")
    coverage.require(5)
    bench(config).run(stimulus, expected, seed=91)


def test_cocotb():
    bench(TINY).run(*case(TINY, 92, 2_000), engine="cocotb", seed=92)


@pytest.mark.long
@pytest.mark.parametrize("config", [TINY, PAPER, NARROW, WIDE], ids=lambda config: config.name)
def test_many_cases(config):
    for seed in range(910, 913):
        bench(config).run(*case(config, seed, 200_000), seed=seed)


def test_timing():
    """Verdicts show so many cycles after their case, and no case no verdict."""
    assert max(EXTENT_LATENCY, SIZE_LATENCY) == GEOMETRY_LATENCY
    cycles, when = 20, 4
    valid = np.arange(cycles) == when
    source = {"source0_height": 1, "source0_width": 1, "source0_chunks": 1, "source0_kernel_h": 1, "source0_stride": 1, "pool_h": 1}
    for values, latencies in ((source | {"source0_base": (1 << TINY.address_bits) - CHUNK_LINES, "out_height": 1}, (None, None)),
                              (source | {"source0_base": (1 << TINY.address_bits) - CHUNK_LINES + 1, "out_height": 1}, (7, None)),
                              (source | {"out_height": 2}, (None, 5))):
        wrong = geometry_verdicts(TINY, clear=0 * valid, valid=valid, case=0 * np.arange(cycles), settings={k: np.full(cycles, v) for k, v in values.items()})
        for verdict, latency in zip(wrong, latencies):
            assert np.flatnonzero(verdict).tolist() == ([] if latency is None else list(range(when + latency, cycles)))


FAULTS = {
    "ends are not looked at": ("tensor_lines <=", "tensor_lines <= 0 &"),
    "the product's high half is not looked at": ("high_product <=", "high_product <= 0 &"),
    "rests are not looked at": ("rest <=", "rest <= 0 &"),
    "huge products are not looked at": ("huge_0 <=", "huge_0 <= 0 &"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_seen(fault):
    with pytest.raises(Mismatch):
        bench(TINY, verilog_edit=lambda text: text.replace(*FAULTS[fault])).run(*case(TINY, 93, 20_000))


def test_verilog_has_no_warnings():
    assert lint(to_verilog(GeometryCheck(config=TINY), "geometry_check"), "geometry_check") == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::amaranth.hdl.UnusedElaboratable")
def test_config_is_checked():
    with pytest.raises(TypeError, match="config must be an ArchConfig, not 3"):
        GeometryCheck(config=3)
    gc.collect()   # the refused component goes while the warning that it was never used is ignored
