"""Load streams: what is packed is unpacked, and what no slice can hold is refused."""
import numpy as np
import pytest

from neuroflex.compiler.load_stream import (LoadStreamError, PeRecord, pack_load_stream, pack_records, record_lines,
                                            unpack_load_stream)
from neuroflex.config import PRESETS
from neuroflex.formats import Core, Status

CONFIG = PRESETS["tiny"]


def columns(rng, config, chunks, count, density=0.4):
    shape = (chunks, config.chunk_bits, count)
    return dict(weights=rng.integers(-128, 128, shape) * (rng.random(shape) < density), theta=rng.integers(1, 1 << config.theta_bits, count),
                bias=rng.integers(-1 << 31, 1 << 31, count), levels=rng.integers(1, config.snn_levels + 1, count))


@pytest.mark.parametrize("preset", PRESETS)
def test_round_trip(preset):
    config = PRESETS[preset]
    rng = np.random.default_rng(41)
    count = 3 * config.ann_pes
    layer = columns(rng, config, 4, count)
    core = rng.integers(0, 2, count)
    pe = rng.integers(0, np.where(core == Core.ANN, config.ann_pes, config.snn_pes))
    index = np.zeros(count, np.int64)
    for i in range(count):
        index[i] = ((core[:i] == core[i]) & (pe[:i] == pe[i])).sum()
    lines = pack_load_stream(config, core=core, pe=pe, index=index, **layer)
    records = unpack_load_stream(lines, config)
    assert sum(len(record.weights) for record in records) == count
    assert len(lines) == sum(record_lines(record, config)[0] for record in records)
    for record in records:
        mine = np.flatnonzero((core == record.core) & (pe == record.pe))
        np.testing.assert_array_equal(record.weights, layer["weights"].reshape(-1, count).T[mine])
        for name in ("theta", "bias", "levels"):
            np.testing.assert_array_equal(getattr(record, name), layer[name][mine])
    np.testing.assert_array_equal(pack_records(records, config), lines)


def record(**changes):
    fields = dict(core=Core.ANN, pe=0, weights=np.ones((2, 32), np.int64), levels=np.ones(2), bias=np.zeros(2), theta=np.ones(2))
    return PeRecord(**fields | changes)


@pytest.mark.parametrize(("records", "message"), [
    ([], "a load stream needs at least one record: a layer without columns cannot be run"),
    ([record(pe=2)], "ANN PE 2: a group of 1 has only 2 PEs"),
    ([record(), record()], "ANN PE 0 has two records"),
    ([record(weights=np.ones((17, 32)))], r"ANN PE 0: weights must be of 1 to 16 columns, not of shape \(17, 32\)"),
    ([record(weights=np.ones((2, 33)))], "ANN PE 0: a row must be whole chunks of 32 positions, not 33"),
    ([record(weights=np.full((2, 32), 128))], "ANN PE 0: a weight does not fit INT8"),
    ([record(levels=np.ones(3))], r"ANN PE 0: levels must be 2 values, not of shape \(3,\)"),
    ([record(theta=np.array([1, 0]))], "ANN PE 0: theta has a value out of 1 ... 4194303"),
    ([record(levels=np.array([1, 128]))], "ANN PE 0: levels has a value out of 1 ... 127"),
    ([record(core=Core.SNN, levels=np.array([9, 1]))], "SNN PE 0: levels has a value out of 1 ... 8"),
    ([record(weights=np.zeros((2, 32 * 513)))], "ANN PE 0: 513 mask pairs are more than mask_pairs = 512 of its slice"),
    ([record(weights=np.ones((2, 32 * 65)))], "ANN PE 0: 1040 lines of weights are more than value_lines = 1024 of its slice"),
])
def test_refused(records, message):
    with pytest.raises(ValueError, match=message):
        pack_records(records, CONFIG)


def test_refused_places():
    layer = columns(np.random.default_rng(42), CONFIG, 1, 3)
    zeros = np.zeros(3, np.int64)
    with pytest.raises(ValueError, match=r"ANN PE 0: places \[0, 0, 1\] are not 0 to 2"):
        pack_load_stream(CONFIG, core=zeros, pe=zeros, index=np.array([0, 0, 1]), **layer)
    with pytest.raises(ValueError, match=r"pe must be one value for each of 3 columns, not of shape \(2,\)"):
        pack_load_stream(CONFIG, core=zeros, pe=zeros[:2], index=zeros, **layer)
    with pytest.raises(ValueError, match=r"weights must have the shape \(chunks, 32, columns\), not \(1, 16, 3\)"):
        pack_load_stream(CONFIG, core=zeros, pe=zeros, index=zeros, **layer | {"weights": layer["weights"][:, :16]})


def test_error_names_line_and_status():
    lines = pack_records([record()], CONFIG)
    lines[0, 3] = 0
    with pytest.raises(LoadStreamError, match=r"load stream, line 0: a record begins with 0xa5, not 0x0 \(BAD_LOAD_RECORD\)") as refused:
        unpack_load_stream(lines, CONFIG)
    assert (refused.value.line, refused.value.status) == (0, Status.BAD_LOAD_RECORD)
