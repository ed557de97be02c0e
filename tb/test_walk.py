"""Im2col walk against plain nested loops: the offered description in every cycle, over whole layers.

Plan
----
* Layers: every kind of :func:`~neuroflex.tb.layers.random_layer`, several in a row; kernels of 1 to 7 with padding, strides up
  to 7, repeats, two sources, pools, PE groups with a partial last block, up to 40 chunks per spine, tensors at the top of
  the address space.
* Receiver: always ready, at random, in long pauses.
* Timing: first description eight cycles after the start, one per cycle.
* Address widths below 16, and the widest.
* Faults: an address without its high product, a partial block not cut off, a wrong consume rule, a flag, a description lost.
* Loops of the model against the architecture page's formula on a layer worked by hand.
"""
import gc
import re
from collections import Counter

import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import DESCRIPTOR_FIELDS
from neuroflex.hdl.walk import Walk
from neuroflex.layouts import chunk_layout, settings_layout
from neuroflex.sim.walk import WALK_FIELDS, walk_chunks, walk_times
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.layers import KINDS, pack_payload, random_layer

SEED = 20260103


def scenario(rng, config, layers):
    """Stimuli and expected outputs of layers one after the other."""
    stimulus = {name: [] for name in ("start", "settings", "o_chunk__ready")}
    expected = {name: [] for name in ("o_chunk__valid", "o_chunk__payload")}
    for layer in layers:
        table = walk_chunks(layer, config=config)
        start = int(rng.integers(5))
        share, stretch = rng.choice([0.3, 0.8, 1]), rng.choice([1, 4, 20])
        cycles = start + 1000 + int(8 * len(table) / share)
        ready = np.repeat(rng.random(cycles) < share, rng.geometric(1 / stretch, cycles))[:cycles]
        offered, taken = walk_times(ready, start, len(table))
        assert taken[-1] < cycles, "the receiver is too slow for the length of the run"
        cycles = int(taken[-1]) + 1 + int(rng.integers(4))
        numbers = np.repeat(np.arange(len(table)), taken - offered + 1)
        valid = np.zeros(cycles, np.int64)
        payload = np.zeros(cycles, np.uint64)
        valid[offered[0]:taken[-1] + 1] = 1
        described = pack_payload(chunk_layout(config), **{name: table[:, index] for index, name in enumerate(WALK_FIELDS)})
        payload[offered[0]:taken[-1] + 1] = described[numbers]
        layout = settings_layout(config)
        packed = pack_payload(layout, **{name: np.array([layer[name]]) for name, _ in layout})
        for store, name, values in ((stimulus, "start", np.arange(cycles) == start),
                                    (stimulus, "settings", np.repeat(packed, cycles, axis=0)),
                                    (stimulus, "o_chunk__ready", ready[:cycles]),
                                    (expected, "o_chunk__valid", valid), (expected, "o_chunk__payload", payload)):
            store[name].append(values)
    stimulus, expected = ({name: np.concatenate(parts) for name, parts in values.items()} for values in (stimulus, expected))
    return stimulus, expected, {"o_chunk__payload": expected["o_chunk__valid"] == 1}


def cover(seen, layer, table):
    """Count what a layer exercises."""
    fields = dict(zip(WALK_FIELDS, table.T))
    groups = 1 << layer["groups_log2"]
    seen["chunks"] += len(table)
    seen["outside"] += int(fields["outside"].sum())
    seen["consumed"] += int(fields["consume"].sum())
    seen["kept"] += int(((fields["consume"] == 0) & (layer["consume0"] == 1) & (fields["outside"] == 0)).sum())
    seen["second source"] += int(fields["source"].any())
    seen["pool"] += layer["pool_h"] * layer["pool_w"] > 1
    seen["partial block"] += layer["out_height"] * layer["out_width"] % groups > 0
    seen["full blocks"] += groups > 1 and layer["out_height"] * layer["out_width"] % groups == 0
    seen["kernel 7"] += 7 in (layer["source0_kernel_h"], layer["source0_kernel_w"])
    seen["stride > kernel"] += layer["source0_stride"] > min(layer["source0_kernel_h"], layer["source0_kernel_w"])
    seen["repeat"] += layer["source0_repeat"] > 1
    seen["one chunk"] += len(table) == 1
    seen["address wraps"] += int((np.diff(fields["address"][fields["outside"] == 0]) < -(1 << 18)).any())


LEAST = {"chunks": 10_000, "outside": 500, "consumed": 200, "kept": 200, "second source": 3, "pool": 3, "partial block": 3,
         "full blocks": 3, "kernel 7": 3, "stride > kernel": 3, "repeat": 5, "one chunk": 1, "address wraps": 1}
SMALLEST = dict.fromkeys((field.name for field in DESCRIPTOR_FIELDS), 0) | {
    f"source0_{name}": 1 for name in ("height", "width", "chunks", "kernel_h", "kernel_w", "stride", "repeat")} | {
    name: 1 for name in ("out_height", "out_width", "pool_h", "pool_w", "consume0", "fetch_lines")}


def test_random_layers():
    config = PRESETS["small"]
    rng = np.random.default_rng(SEED)
    layers = [random_layer(rng, config, kind) for kind in KINDS * 12] + [SMALLEST, SMALLEST]
    seen = Counter()
    for layer in layers:
        cover(seen, layer, walk_chunks(layer, config=config))
    missed = {name: (seen[name], least) for name, least in LEAST.items() if seen[name] < least}
    assert not missed, f"coverage too low: {missed}"
    stimulus, expected, where = scenario(rng, config, layers)
    Bench(Walk(config=config), "walk").run(stimulus, expected, where, seed=SEED)


def test_under_cocotb():
    config = PRESETS["small"]
    rng = np.random.default_rng(SEED + 1)
    stimulus, expected, where = scenario(rng, config, [random_layer(rng, config, kind, most=300) for kind in KINDS])
    Bench(Walk(config=config), "walk").run(stimulus, expected, where, engine="cocotb", seed=SEED + 1)


@pytest.mark.long
@pytest.mark.parametrize("preset, bits", [("tiny", 14), ("paper", 32), ("pynq_z2", 17)])
def test_address_widths(preset, bits):
    config = PRESETS[preset].replace(address_bits=bits)
    rng = np.random.default_rng([SEED, bits])
    layers = [random_layer(rng, config, kind) for kind in KINDS * 12]
    for layer in layers[::7]:                      # tensors of which the windows take a corner only
        layer["source0_width"] += int(rng.integers(60_000))
        layer["source0_chunks"] = 1 + 7 * (layer["source0_chunks"] == 1)
    stimulus, expected, where = scenario(rng, config, layers)
    Bench(Walk(config=config), "walk").run(stimulus, expected, where, seed=SEED)


class _WholeBlocks(Walk):
    """A walk that gives every block all its groups."""

    def _last_group(self, group, groups_last, last_position):
        return group == groups_last


class _KeepsNothing(Walk):
    """A walk that consumes what the window to the right still needs."""

    def _read_again(self, below, right, repeats_end):
        return below | ~repeats_end


class _FlagEarly(Walk):
    """A walk whose end of the row is the end of the spine."""

    def _address_pipeline(self, m, loops, advance):
        super()._address_pipeline(m, loops | {"last_chunk": loops["new_block"]}, advance)


@pytest.mark.parametrize("fault", [_FlagEarly, pytest.param(_WholeBlocks, marks=pytest.mark.long),
                                   pytest.param(_KeepsNothing, marks=pytest.mark.long)])
def test_faults_are_seen(fault):
    config = PRESETS["small"]
    rng = np.random.default_rng(SEED)
    overlapping = SMALLEST | {f"source0_{name}": value for name, value in (
        ("height", 5), ("width", 5), ("kernel_h", 3), ("kernel_w", 3), ("pad", 1))} | {"out_height": 5, "out_width": 5}
    layers = [overlapping, *(random_layer(rng, config, kind, most=500) for kind in KINDS * 2)]
    stimulus, expected, where = scenario(rng, config, layers)
    with pytest.raises(Mismatch):
        Bench(fault(config=config), "walk").run(stimulus, expected, where, seed=SEED)


@pytest.mark.parametrize("pattern, text", [(r"spared <= \w+;", "spared <= 1'h0;"),
                                           pytest.param(r"(?<!\w)last_chunk <= \w+;", "last_chunk <= chunk_ends;", marks=pytest.mark.long),
                                           pytest.param(r"(?<!\w)last_window <= \w+;", "last_window <= pool_columns_end;", marks=pytest.mark.long)],
                         ids=["spare", "chunk", "window"])
def test_faults_in_registers_are_seen(pattern, text):
    """Without the register that takes a description when the one on offer is not taken; with ends of loops that know of one loop only."""
    config, rng = PRESETS["small"], np.random.default_rng(SEED)
    stimulus, expected, where = scenario(rng, config, [random_layer(rng, config, kind, most=500) for kind in KINDS])
    bench = Bench(Walk(config=config), "walk", verilog_edit=lambda verilog: re.sub(pattern, text, verilog))
    with pytest.raises(Mismatch):
        bench.run(stimulus, expected, where, seed=SEED)


def test_worked_example():
    """3 x 2 tensor, 2 x 2 kernel, padding 1, stride 2: four corners of which some lie outside."""
    layer = SMALLEST | {"source0_base": 100, "source0_height": 3, "source0_width": 2, "source0_kernel_h": 2, "source0_kernel_w": 2,
                        "source0_pad": 1, "source0_stride": 2, "out_height": 2, "out_width": 2}
    table = dict(zip(WALK_FIELDS, walk_chunks(layer, config=PRESETS["tiny"]).T))
    spines = [None, None, None, 0, None, None, 1, None, None, 2, None, 4, 3, None, 5, None]
    assert table["outside"].tolist() == [spine is None for spine in spines]
    assert [None if outside else (address - 100) // 9 for outside, address in zip(table["outside"], table["address"])] == spines
    assert np.flatnonzero(table["first_chunk"]).tolist() == [0, 4, 8, 12] == np.flatnonzero(table["new_block"]).tolist()
    assert np.flatnonzero(table["last_chunk"]).tolist() == [3, 7, 11, 15]
    assert table["consume"].all() and table["first_window"].all() and table["last_window"].all()


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refuses_what_is_no_configuration():
    with pytest.raises(TypeError, match="config must be an ArchConfig, not 'tiny'"):
        Walk(config="tiny")
    gc.collect()   # the refused component goes while the warning that it was never used is ignored
