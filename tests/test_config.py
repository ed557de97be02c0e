"""ArchConfig: what is refused and how, presets, TOML."""
import dataclasses
import re
from pathlib import Path

import pytest

from neuroflex.config import PRESETS, ArchConfig, ConfigError, load_config

POWERS = ("chunk_bits", "ann_pes", "snn_pes", "slots", "columns_per_pe", "row_buffers", "value_lines", "mask_pairs", "laggy_adders",
          "cache_banks", "cache_ways", "cache_sets", "fetch_ahead", "pending_lines", "write_buffer")
RANGES = {"snn_levels": (1, 15), "ann_acc_bits": (16, 40), "snn_acc_bits": (12, 32), "theta_bits": (4, 31), "neuron_steps": (1, 4),
          "address_bits": (12, 32), "weight_banks": (1, 2)}


def test_all_fields_are_checked():
    assert {field.name for field in dataclasses.fields(ArchConfig)} == {"name", "snn_pe", *POWERS, *RANGES}


@pytest.mark.parametrize("field", POWERS)
@pytest.mark.parametrize("value", [0, 1, 3, 48, 1 << 20, -4])
def test_powers(field, value):
    with pytest.raises(ConfigError, match=rf"^{field} = {value}: must be a power of two from \d+ to \d+$"):
        ArchConfig(**{field: value})


@pytest.mark.parametrize("field", RANGES)
def test_ranges(field):
    low, high = RANGES[field]
    for value in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=f"^{field} = {value}: must be from {low} to {high}$"):
            ArchConfig(**{field: value})


@pytest.mark.parametrize("field", [*POWERS, *RANGES])
@pytest.mark.parametrize("value", [4.0, "4", True, None])
def test_types(field, value):
    with pytest.raises(ConfigError, match=f"^{field} = .*: must be an integer$"):
        ArchConfig(**{field: value})


@pytest.mark.parametrize("name, why", [(3, "must be a string"), ("two words", "plain identifier"), ("", "plain identifier"),
                                       ("../x", "plain identifier")])
def test_name(name, why):
    with pytest.raises(ConfigError, match=f"^name = .*{why}"):
        ArchConfig(name=name)


@pytest.mark.parametrize("value, why", [(3, "must be a string"), ("parallel", "must be one of radix, dual_prefix, serial, binary$"), ("", "must be one of")])
def test_kind_of_snn_pe(value, why):
    assert ArchConfig().snn_pe == "radix"
    with pytest.raises(ConfigError, match=f"^snn_pe = .*: {why}"):
        ArchConfig(snn_pe=value)


@pytest.mark.parametrize("changes, message", [
    ({"chunk_bits": 32, "ann_pes": 8, "laggy_adders": 8}, r"^ann_pes = 8: a core may have at most chunk_bits / 8 = 4 PEs"),
    ({"snn_pes": 16}, r"^snn_pes = 16: a core may have at most chunk_bits / 8 = 8 PEs"),
    ({"laggy_adders": 128}, r"^laggy_adders = 128: must not exceed chunk_bits = 64"),
    ({"theta_bits": 28}, r"^theta_bits = 28: must be below ann_acc_bits = 28"),
    ({"columns_per_pe": 64, "mask_pairs": 16}, r"^mask_pairs = 16: must hold one chunk of every column: at least 32"),
    ({"cache_banks": 32, "cache_sets": 128, "address_bits": 12}, r"^address_bits = 12: too few"),
])
def test_contradictions(changes, message):
    with pytest.raises(ConfigError, match=message):
        ArchConfig(**changes)


def test_keyword_only_and_frozen():
    with pytest.raises(TypeError):
        ArchConfig("tiny")
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["tiny"].slots = 2


def test_every_field_is_documented():
    assert all(field.metadata["doc"] for field in dataclasses.fields(ArchConfig))


@pytest.mark.parametrize("preset", PRESETS)
def test_toml_round_trip(preset, tmp_path):
    config = PRESETS[preset]
    assert ArchConfig.from_toml(config.to_toml()) == config == load_config(preset)
    path = tmp_path / "own.toml"
    path.write_text(config.replace(name="own", slots=8, snn_pe="serial").to_toml())
    assert load_config(path) == config.replace(name="own", slots=8, snn_pe="serial")
    assert ArchConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("file, preset, changes", [*((f"paper_{kind}", "paper", {"snn_pe": kind}) for kind in ("dual_prefix", "serial", "binary")),
                                                   ("pynq_z2_double", "pynq_z2", {"weight_banks": 2})])
def test_example_is_the_preset_but_for(file, preset, changes):
    assert load_config(Path(__file__).parents[1] / "examples" / f"{file}.toml") == PRESETS[preset].replace(**changes)


def test_wrong_files(tmp_path):
    with pytest.raises(ConfigError, match=r"neither a preset \(tiny, small, pynq_z2, paper\) nor a file"):
        load_config(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        ArchConfig.from_toml("slots = ")
    with pytest.raises(ConfigError, match="unknown field 'lanes'; known fields: address_bits, "):
        ArchConfig.from_toml("lanes = 3")


def test_paper_preset():
    paper = PRESETS["paper"]
    assert (paper.ann_pes, paper.snn_pes, paper.chunk_bits, paper.cache_bytes) == (16, 16, 128, 256 * 1024)
    assert (paper.line_bytes, paper.laggy_cycles, paper.pairs_per_pe, paper.lanes, paper.max_groups) == (16, 4, 8, 16, 8)


def test_presets_are_as_the_readme_says():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \+ (\d+) \| (\d+) bits \| (\d+) KB \|(.*)\|$", readme, re.MULTILINE)
    assert [row[0] for row in rows] == list(PRESETS)
    for name, *numbers, what in rows:
        config = PRESETS[name]
        assert list(map(int, numbers)) == [config.ann_pes, config.snn_pes, config.chunk_bits, config.cache_bytes // 1024]
        levels = re.search(r"up to (\d+) levels", what)
        assert config.snn_levels == (int(levels[1]) if levels else ArchConfig().snn_levels)
