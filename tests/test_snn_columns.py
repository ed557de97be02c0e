"""The sweep that says where SNN columns win: its figures are the golden model's, its picture is one."""
from xml.etree import ElementTree

import numpy as np
import pytest
import snn_columns

from neuroflex.config import PRESETS
from neuroflex.sim.energy import SETS


@pytest.fixture(scope="module")
def points():
    keys = [(levels, matches, density, "low") for levels in (1, 8) for matches in (4, 50) for density in snn_columns.DENSITIES]
    return {key: snn_columns.point(PRESETS["tiny"], *key) for key in keys}


def test_cycles_are_bound_by_matches(points):
    for (levels, matches, density, _), one in points.items():
        if one is None:         # 50 of 288 inputs with 10 % of the activations: there are not as many weights
            assert (matches, density) == (50, 0.1)
            continue
        assert 0.6 * matches < one["matches"] < 1.4 * matches and one["levels"] == levels
        assert all(max(one["matches"], 1) <= cycles < 2 * one["matches"] + 6 for cycles in one["cycles"].values())
        assert set(one["energy_pj"]) == set(SETS)


def test_more_levels_cost_the_snn_core_more(points):
    one, eight = points[1, 50, 0.25, "low"], points[8, 50, 0.25, "low"]
    for which in SETS:
        assert snn_columns.ratio(one["energy_pj"][which]) < snn_columns.ratio(eight["energy_pj"][which])
    assert np.isclose(one["energy_pj"]["literature-45nm"]["ANN"], eight["energy_pj"]["literature-45nm"]["ANN"], rtol=0.1)


def test_table_and_picture(points):
    lines = snn_columns.table(points, 0.25, "low").splitlines()
    assert len(lines) == 2 + 2 and lines[2].startswith("| 4 |") and lines[3].count("|") == lines[0].count("|") and "–" in lines[2]      # L = 2 and 4 are not among them
    root = ElementTree.fromstring(snn_columns.picture(points, 0.25))
    texts = [item.text for item in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"4 matches", "1 match", "L = 8", "–"} <= set(texts)
