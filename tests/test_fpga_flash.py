"""openFPGALoader against simulated JTAG chains: the whole way from the command to the bits that a device takes.

Skipped where openFPGALoader does not run; what is checked before it is called is tested without it, in `test_fpga_build` and below.
"""
import random
import struct
import subprocess

import pytest

from neuroflex.fpga import flash
from neuroflex.fpga.build import part_of_bitstream
from neuroflex.tb.jtag_chain import Tap, served

PAYLOAD = random.Random(7).randbytes(4000)
ERASED, BUSY = 0x26, 1 << 8 | 1 << 9 | 1 << 10


def loader_failure():
    """Why openFPGALoader does not run here, or None."""
    try:
        done = subprocess.run([flash.find_loader(), "--Version"], capture_output=True, text=True)
    except ModuleNotFoundError as error:
        return str(error)
    return (done.stderr or done.stdout).strip() if done.returncode else None


def vivado_bitstream(part=b"7z020clg400"):
    fields = ((b"a", b"neuroflex;UserID=0XFFFFFFFF;Version=2022.1\0"), (b"b", part + b"\0"), (b"c", b"2000/01/01\0"), (b"d", b"00:00:00\0"))
    head = struct.pack(">H", 9) + bytes.fromhex("0ff00ff00ff00ff000") + struct.pack(">H", 1)
    content = b"\xff" * 32 + bytes.fromhex("aa995566") + PAYLOAD
    return head + b"".join(key + struct.pack(">H", len(text)) + text for key, text in fields) + b"e" + struct.pack(">I", len(content)) + content


def lattice_bitstream():
    commands = bytes.fromhex("bdb3 ffffffff 3b000000 e2000000 41113043 22000000 40000000")
    return b"\xff\x00Part: LFE5U-85F-6CABGA381\x00\xff" + b"\xff" * 4 + commands + PAYLOAD + b"\xff" * 4


def zynq_chain(idcode=0x23727093):
    """The processor's debug port, then the programmable logic, which says that it is configured."""
    return Tap(0x4BA00477, 4, 0xE), Tap(idcode, 6, 0x09, capture=lambda tap: 0x35)


def ecp5_chain(idcode=0x41113043):
    """Its status: configured, until it was disabled at the end."""
    return Tap(idcode, 8, 0xE0, registers={0x3C: lambda tap: (1 << 8 if ERASED in tap.instructions else BUSY, 32)}),


BOARDS = {"pynq_z2": (vivado_bitstream, zynq_chain, 0x05), "arty_z7_20": (vivado_bitstream, zynq_chain, 0x05), "ulx3s": (lattice_bitstream, ecp5_chain, 0x7A)}


def test_parts(tmp_path):
    file = tmp_path / "x.bit"
    for content, part in ((vivado_bitstream(), "xc7z020clg400"), (vivado_bitstream(b"7z010clg400"), "xc7z010clg400"), (lattice_bitstream(), "LFE5U-85F-CABGA381"), (PAYLOAD, None)):
        file.write_bytes(content)
        assert part_of_bitstream(file) == part
    file.write_bytes(vivado_bitstream(b"7z010clg400"))
    with pytest.raises(flash.FlashError, match="for the part xc7z010clg400; pynq_z2 has an xc7z020clg400-1"):
        flash.flash("pynq_z2", file)
    with pytest.raises(flash.FlashError, match="is missing; Vivado makes one"):
        flash.flash("pynq_z2", tmp_path / "absent.bit")
    file.write_bytes(lattice_bitstream())
    with pytest.raises(flash.FlashError, match="for the part LFE5U-85F"):
        flash.flash("arty_z7_20", file)


def test_boards_that_this_loader_knows(tmp_path, monkeypatch):
    """What it is called with, from a stand-in."""
    file, loader = tmp_path / "x.bit", tmp_path / "openFPGALoader"
    file.write_bytes(vivado_bitstream())
    loader.write_text("#!/bin/sh\necho \"$@\"\n")
    loader.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for board in ("pynq_z2", "arty_z7_20"):
        assert flash.flash(board, file, extra=("--verbose",)) == f"-b {board} --verbose -m {file}\n"


@pytest.mark.parametrize("board", BOARDS)
def test_whole_way(board, tmp_path):
    """The device takes exactly the file's bits, most significant first; a cable without a device, and one that does not answer, are failures with help."""
    if why := loader_failure():
        pytest.skip(f"openFPGALoader does not run here: {why}")
    make, chain, configuration = BOARDS[board]
    file = tmp_path / "neuroflex.bit"
    file.write_bytes(make())

    def cable(port):
        return "-c", "xvc-client", "--ip", "127.0.0.1", "--port", str(port)

    taps = chain()
    with served(*taps) as port:
        flash.flash(board, file, extra=cable(port))
    bits = "".join(map(str, taps[-1].received[configuration]))
    assert "".join(f"{byte:08b}" for byte in PAYLOAD) in bits
    with served() as port, pytest.raises(flash.FlashError, match="Is the board connected and switched on"):
        flash.flash(board, file, extra=cable(port))
    with pytest.raises(flash.FlashError, match="Is the board connected and switched on"):
        flash.flash(board, file, extra=cable(port))
