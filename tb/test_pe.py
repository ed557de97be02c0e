"""Row end of a PE against its model, every output in every cycle.

Plan: layers one after another with 1, 2, odd and all columns; rows that start as soon as a buffer is free or later, drain in order, close
together or apart; jobs taken at once or late; levels that come in order after any time; windows of one to four rows; output
memory read at random addresses all the time. Library and cocotb engines. The frame of the two PEs around it (`ProcessingElement`) is
tested with them.
Coverage: counted in :func:`traffic`, with thresholds. Faults: edits of the generated Verilog must be noticed.
"""
import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.hdl.pe import RowEnd
from neuroflex.sim.pe import row_end
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.bits import concat
from neuroflex.tb.coverage import Coverage

TINY = PRESETS["tiny"]
POINTS = ("all buffers full", "jobs of two rows wait", "taken at once", "result beside a job", "window of several rows",
          "old level is larger", "new level is larger", "one column", "all columns", "row drains as another ends")


def traffic(config, seed, layers):
    """Stimuli by cycle, and the coverage of them."""
    rng, cover = np.random.default_rng(seed), Coverage("row end", POINTS)
    names = ("columns", "clear", "row_started", "drained", "first_window", "last_window", "taken", "result", "y")
    rows = []
    most, columns = config.columns_per_pe, 0
    for _ in range(layers):
        rows.append(dict(clear=1, columns=columns))
        columns = int(rng.choice([1, 2, most - 1, most, rng.integers(1, most + 1)]))
        eager, quick, speed = rng.random(3) ** 2
        windows = int(rng.choice([1, 1, 2, 4]))
        total = windows * int(rng.integers(1, 12))
        cover.hit("one column", columns == 1)
        cover.hit("all columns", columns == most)
        rows += [{}] * int(rng.integers(1, 4))
        started = drained = taken = results = 0
        best = np.zeros(columns, np.int64)
        while results < total * columns:
            cycle = dict(columns=columns)
            ended = results // columns
            cover.hit("all buffers full", started - ended == config.row_buffers)
            cover.hit("jobs of two rows wait", drained * columns - taken > columns)
            if started < total and started - ended < config.row_buffers and rng.random() > eager:
                cycle["row_started"] = 1
            if drained < started and rng.random() > quick:
                cycle |= dict(drained=1, first_window=drained % windows == 0, last_window=drained % windows == windows - 1)
            if taken < drained * columns and rng.random() > speed:
                cycle["taken"] = 1
            if results < taken and rng.random() > speed:
                column, y = results % columns, int(rng.choice([0, 1, 127, rng.integers(128)]))
                window = results // columns % windows
                cycle |= dict(result=1, y=y)
                cover.hit("old level is larger", window > 0 and best[column] > y)
                cover.hit("new level is larger", window > 0 and best[column] < y)
                cover.hit("window of several rows", window > 0)
                best[column] = y if window == 0 else max(best[column], y)
                results += 1
                cover.hit("row drains as another ends", "drained" in cycle and column == columns - 1)
            cover.hit("taken at once", "taken" in cycle and taken == (drained - 1) * columns)
            cover.hit("result beside a job", "taken" in cycle and "result" in cycle)
            started += cycle.get("row_started", 0)
            drained += cycle.get("drained", 0)
            taken += cycle.get("taken", 0)
            rows.append(cycle)
        rows += [dict(columns=columns)] * int(rng.integers(1, 4))
    events = {name: np.array([int(row.get(name, 0)) for row in rows], np.int64) for name in names}
    for name, high in (("y_bank", config.row_buffers), ("y_index", most)):
        events[name] = rng.integers(0, high, len(rows))
    return events, cover


def run(config, seed, layers, *, engine="library", verilog_edit=None, covers=True):
    print("seed", seed)
    events, cover = traffic(config, seed, layers)
    expected = row_end(**events, row_buffers=config.row_buffers, columns_per_pe=config.columns_per_pe)
    column = np.zeros(len(events["y"]), np.int64)      # of each result: they come in the order of the jobs
    layer, place = np.cumsum(events["clear"]), np.cumsum(events["result"]) - events["result"]
    for number in range(1, layer[-1] + 1):
        mine = layer == number
        column[mine] = (place[mine] - place[mine][0]) % np.maximum(events["columns"][mine], 1)
    stimulus = {name: events[name] for name in ("columns", "clear", "row_started", "y_bank", "y_index")} | {
        "job_taken": events["taken"],
        "drained": concat((events["drained"], 1), (events["first_window"], 1), (events["last_window"], 1)),
        "result": concat((events["result"], 1), (column, (config.columns_per_pe - 1).bit_length()), (events["y"], 7)),
    }
    Bench(RowEnd(config), "row_end", verilog_edit=verilog_edit).run(stimulus, expected, seed=seed, engine=engine)
    if covers:
        assert events["result"].sum() >= 10_000
        cover.require(20)


def test_row_end():
    run(TINY, 1, 200)


def test_row_end_of_two_buffers_on_cocotb():
    run(TINY.replace(name="two", row_buffers=2, columns_per_pe=4), 2, 20, engine="cocotb", covers=False)


@pytest.mark.parametrize("fault", [("> result[", "< result["), ("job_bank + ", "job_bank - "), ("full <= ", "full <= 1'h0 & "),
                                   ("columns_left - 1'h1", "columns_left - 1'h0")], ids=["max", "bank", "full", "columns"])
def test_fault_is_seen(fault):
    with pytest.raises(Mismatch):
        run(TINY, 3, 20, verilog_edit=lambda text: text.replace(*fault), covers=False)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_row_end_seeds(seed):
    run(TINY, 10 + seed, 2_000)
