"""Run by `test_fpga_pynq` with a Python that has the real package ``pynq``: the driver of a board's archive on a device whose registers and memory are elsewhere.

Arguments: folder of the unpacked archive, port of the process that has the simulation, file of images (n, C, H, W), file for the levels.
"""
import struct
import sys
import warnings
from multiprocessing.connection import Client
from pathlib import Path

import numpy as np

folder, port, source, target = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
sys.path.insert(0, str(folder / "python"))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")                  # pynq's own, on a machine that is no board
    import pynq
    from pynq.buffer import PynqBuffer
    from pynq.pl_server.remote_device import RemoteBitfileHandler

BUFFER = 0x1000_0000                                 # physical address, and that of the simulation's memory
SLCR = {0xF800_0100: 26 << 12, 0xF800_0104: 21 << 12, 0xF800_0108: 20 << 12}       # PLLs of 1300, 1050 and 1000 MHz, from 50
AFI = {0xF800_8000: 1, 0xF800_8014: 0xF01}           # as after a boot that chose 32 bits


class Device(pynq.Device):
    """A Zynq-7000 whose programmable logic is a simulation in another process."""

    def __init__(self, board):
        super().__init__("simulated")
        self.capabilities, self.arch, self.name = {"REGISTER_RW": True}, "armv7l", "Pynq-Z2"
        self.board, self.processor, self.downloads, self.buffer = board, {**SLCR, **AFI}, [], None

    def _ask(self, *what):
        self.board.send(what)
        return self.board.recv()

    def read_registers(self, address, length):
        read = self.processor.get if address >= 0xE000_0000 else lambda at, _: self._ask("read", at)
        return b"".join(struct.pack("<I", read(address + offset, 0)) for offset in range(0, length, 4))

    def write_registers(self, address, data):
        for offset, value in enumerate(struct.unpack(f"<{len(data) // 4}I", bytes(data))):
            if address >= 0xE000_0000:
                self.processor[address + 4 * offset] = value
            else:
                self._ask("write", address + 4 * offset, value)

    def get_bitfile_metadata(self, name, partial=False):
        return RemoteBitfileHandler(name).get_parser(partial)

    def download(self, bitstream, parser=None):
        self.downloads.append(bitstream.bitfile_name)
        super().post_download(bitstream, parser, self.tag)

    def allocate(self, shape, dtype, **options):
        self.buffer = PynqBuffer(shape, dtype, device=self, bo=0, coherent=False, device_address=BUFFER)
        return self.buffer

    def flush(self, bo, offset, vaddr, nbytes):
        self._ask("flush", offset, self.buffer.view(np.ndarray)[offset:offset + nbytes].tobytes())

    def invalidate(self, bo, offset, vaddr, nbytes):
        self.buffer.view(np.ndarray)[offset:offset + nbytes] = np.frombuffer(self._ask("invalidate", offset, nbytes), np.uint8)


from neuroflex import fpga  # noqa: E402 - after the path is set

with Client(("127.0.0.1", port), authkey=b"pynq") as board:
    device = Device(board)
    with fpga.open("pynq", overlay=folder / "neuroflex.bit", device=device, memory_bytes=1 << 20, interrupt=False) as accelerator:
        assert type(accelerator.device).__name__ == "PynqDevice" and sys.modules["neuroflex"].__file__.startswith(str(folder))
        assert device.downloads == [str(folder / "neuroflex.bit")]
        assert device.processor[0xF800_8000] == 0 and device.processor[0xF800_8014] == 0xF00
        assert accelerator.device.clock_mhz == 100
        block = accelerator.device._overlay.neuroflex
        assert int(block.register_map.identity) == 0x4E464C58 and int(block.register_map.config0.ann_pes) == 2
        assert block.register_map.shell.data_bytes == 8
        accelerator.load(folder / "program.nfx")
        np.save(target, accelerator(np.load(source)))
        print(f"pynq {pynq.__version__}, {accelerator.reports[0].cycles} cycles")
