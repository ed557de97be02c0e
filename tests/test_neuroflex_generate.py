"""What `generate` writes: complete, deterministic, clean, and never half of it."""
import dataclasses
import hashlib
import json
import os
import re

import pytest

from neuroflex import generate as module
from neuroflex.axi import AxiConfig
from neuroflex.config import PRESETS, ArchConfig
from neuroflex.generate import MANIFEST, GenerateError, files_match, generate, parameter_header


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """The tiny preset, generated once, linted."""
    return generate(PRESETS["tiny"], tmp_path_factory.mktemp("generate") / "out", lint=True)


def test_lint_is_clean(generated):
    assert generated.warnings == ()


@pytest.mark.long
@pytest.mark.parametrize("axi", [None, AxiConfig()], ids=["bare", "axi"])
@pytest.mark.parametrize("preset", PRESETS)
def test_lint_is_clean_for_every_preset(preset, axi, tmp_path):
    assert generate(PRESETS[preset], tmp_path / "out", axi=axi, lint=True).warnings == ()


def test_every_file_is_listed(generated):
    folder = generated.folder
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == set(generated.files) | {MANIFEST}
    listed = (folder / f"{generated.top}.f").read_text().split()
    assert sorted(listed) == sorted(path for path in found if path.endswith(".v"))
    assert listed[-1] == f"rtl/{generated.top}.v"
    manifest = json.loads((folder / MANIFEST).read_text())
    for path, digest in manifest["files"].items():
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == digest


def test_one_module_per_file(generated):
    for path in (generated.folder / "rtl").iterdir():
        lines = [line for line in path.read_text().splitlines() if line.startswith("module ")]
        assert len(lines) == 1 and lines[0].startswith(f"module {path.stem}(")


def test_alike_blocks_share_a_module_and_names_are_plain(generated):
    """Both PEs of a core are one module; no name has a number of the tools' in it, such as `busy$75` or `port$4402$0`."""
    files = {path.name for path in (generated.folder / "rtl").iterdir()}
    assert "neuroflex_tiny_core_ann_array_pe.v" in files and "neuroflex_tiny_core_cache_bank.v" in files
    assert not any(re.search(r"(pe|bank)_\d", name) for name in files)
    array = (generated.folder / "rtl" / "neuroflex_tiny_core_ann_array.v").read_text()
    assert re.findall(r"^  neuroflex_tiny_core_ann_array_pe (\w+) \($", array, re.MULTILINE) == ["pe_0", "pe_1"]
    for path in (generated.folder / "rtl").iterdir():
        assert "$" not in re.sub(r"\$(signed|unsigned)\b", "", path.read_text()), path.name


def test_header_names_every_parameter(generated):
    top = (generated.folder / "rtl" / f"{generated.top}.v").read_text().split("module ", 1)[0]
    words = " ".join(top.replace("//", " ").split())
    for field in dataclasses.fields(ArchConfig):
        assert f" {field.name} {getattr(PRESETS['tiny'], field.name)} {field.metadata['doc']}" in words


def test_header_names_every_port_and_the_bits_of_its_fields(generated):
    """Each port of the module is in the comment, with its direction and width."""
    comment, text = (generated.folder / "rtl" / f"{generated.top}.v").read_text().split("module ", 1)
    ports = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", text, re.MULTILINE)
    for direction, high, name in ports:
        if name not in ("clk", "rst"):
            assert re.search(rf"^//   {name} +{direction.removesuffix('put')} +{int(high or 0) + 1}\b", comment, re.MULTILINE), name
    assert len(ports) == len(re.findall(r"^//   [a-z]+_\w+ +(?:in|out) ", comment, re.MULTILINE)) + 3     # clk, rst; irq has no underscore
    assert "[7:0] address, [8] write, [40:9] data" in comment and "[31:0] data, [32] error" in comment
    assert "[19:0] address, [27:20] lines, [28] write" in comment


def test_fields_lie_where_the_header_says(generated):
    """In the Verilog itself: the slices by which the register file takes a request apart."""
    text = (generated.folder / "rtl" / f"{generated.top}_registers.v").read_text()
    for field, bits in (("address", "7:0"), ("write", "8"), ("data", "40:9")):
        assert f"payload.{field}  = request__payload[{bits}];" in text


def test_configuration_and_registers_read_back(generated):
    assert ArchConfig.from_toml((generated.folder / "config.toml").read_text()) == PRESETS["tiny"]
    names = {register["name"] for register in json.loads((generated.folder / "registers.json").read_text())}
    header = (generated.folder / "registers.h").read_text()
    table = (generated.folder / "registers.md").read_text()
    for name in names:
        assert f"#define NEUROFLEX_{name.upper()} " in header and f"| {name} |" in table


def test_again_gives_the_same_bytes(generated):
    assert generate(PRESETS["tiny"], generated.folder).files == generated.files


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(GenerateError, match="holds files that were not generated"):
        generate(PRESETS["tiny"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("manifest", ["{}", "[]", "no JSON", '{"manifest_version": 3, "name": "a browser extension"}', '{"top": "t", "sources": "s", "files": ["mine.txt"]}'])
def test_foreign_manifest_is_refused(tmp_path, manifest):
    """Other programs' folders hold a file of that name as well."""
    (tmp_path / MANIFEST).write_text(manifest)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(GenerateError, match="its manifest.json is not one of `neuroflex generate`"):
        generate(PRESETS["tiny"], tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {MANIFEST: manifest, "mine.txt": "keep me"}


def test_files_added_to_a_generated_folder_are_kept(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    monkeypatch.setattr(module, "design_files", lambda config, axi: {"rtl/a.v": "generated"})
    generate(PRESETS["tiny"], folder)
    (folder / "rtl" / "testbench.v").write_text("keep me")
    (folder / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(GenerateError, match="not generated: elsewhere, rtl/testbench.v; move them"):
        generate(PRESETS["tiny"], folder)
    assert (folder / "rtl" / "testbench.v").read_text() == "keep me"
    (folder / "rtl" / "testbench.v").unlink()
    (folder / "elsewhere").unlink()
    (folder / "rtl" / "a.v").unlink()           # nothing is lost by replacing what lacks a file
    generate(PRESETS["tiny"], folder)
    assert (folder / "rtl" / "a.v").read_text() == "generated"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_interrupt_between_the_renames_leaves_the_old_folder(tmp_path, monkeypatch, failure):
    folder, rename = tmp_path / "out", os.rename
    monkeypatch.setattr(module, "design_files", lambda config, axi: {"a.txt": "old"})
    generate(PRESETS["tiny"], folder)

    def interrupted(source, target):
        if source.name == "new":
            raise failure
        rename(source, target)

    monkeypatch.setattr(module, "design_files", lambda config, axi: {"a.txt": "new"})
    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(failure):
        generate(PRESETS["tiny"], folder)
    assert (folder / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failure_leaves_the_old_folder(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    monkeypatch.setattr(module, "design_files", lambda config, axi: {"a.txt": "old"})
    generate(PRESETS["tiny"], folder)
    monkeypatch.setattr(module, "design_files", lambda config, axi: {"a.txt": "new", "b.txt": object()})
    with pytest.raises((TypeError, AttributeError)):
        generate(PRESETS["tiny"], folder)
    assert (folder / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_axi_shell(tmp_path):
    """With a shell: another top with the ports that vendors' tools look for, and the shell's registers."""
    done = generate(PRESETS["tiny"], tmp_path / "out", axi=AxiConfig(data_bits=128))
    assert done.top == "neuroflex_tiny_axi"
    top = (done.folder / "rtl" / f"{done.top}.v").read_text()
    for port in ("input aclk;", "input aresetn;", "input [11:0] s_axi_awaddr;", "output s_axi_bvalid;", "output [31:0] m_axi_araddr;", "input [127:0] m_axi_rdata;",
                 "output [15:0] m_axi_wstrb;", "output irq;"):
        assert port in top
    assert "// AXI shell" in top and " data_bits             128  width of the AXI4 data bus" in top
    assert json.loads((done.folder / MANIFEST).read_text())["axi"]["data_bits"] == 128
    assert "#define NEUROFLEX_QUEUE_PUSH 0x11Cu" in (done.folder / "registers.h").read_text()
    assert "| 0x11C | queue_push |" in (done.folder / "registers.md").read_text()
    assert '#include "registers.h"' in (done.folder / "neuroflex.c").read_text() and "NEUROFLEX_STATUS_BUS_ERROR = 8" in (done.folder / "neuroflex.h").read_text()


def test_header_wraps_long_meanings():
    assert max(map(len, parameter_header(PRESETS["paper"]).splitlines())) <= 120


def test_files_match_their_manifest(tmp_path):
    (tmp_path / "a.v").write_text("module a;\n")
    manifest = {"files": {"a.v": hashlib.sha256(b"module a;\n").hexdigest()}}
    assert files_match(tmp_path, manifest)
    assert not files_match(tmp_path, {})
    (tmp_path / "a.v").write_text("module b;\n")
    assert not files_match(tmp_path, manifest)
    (tmp_path / "a.v").unlink()
    assert not files_match(tmp_path, manifest)
