"""The accelerator in simulation: the Verilated RTL with a memory behind it."""
import time

import numpy as np

from neuroflex.fpga.device import BusError, Device

__all__ = ["SimulatedDevice"]

_CYCLES_AT_A_TIME = 1 << 18


class SimulatedDevice(Device):
    """The very RTL that goes on a board, compiled to a simulator (built the first time, about a minute).

    Parameters
    ----------
    config : ArchConfig
    memory_bytes : int, optional
        By default all that the configuration can address.
    latency : int
        Of memory, in cycles.
    """

    def __init__(self, config, *, memory_bytes=None, latency=20):
        from neuroflex.flow import rtl_accelerator

        limit = config.line_bytes << config.address_bits
        memory_bytes = limit if memory_bytes is None else memory_bytes
        if not 0 < memory_bytes <= limit or memory_bytes % config.line_bytes:
            raise ValueError(f"memory_bytes must be a multiple of {config.line_bytes} up to {limit}, not {memory_bytes}")
        self.memory_bytes = memory_bytes
        self._lines = np.zeros((memory_bytes // config.line_bytes, config.line_bytes), np.uint8)
        self._memory = self._lines.reshape(-1)
        self._rtl = rtl_accelerator(config).device(self._lines, latency=latency)

    def read_register(self, offset):
        value = self._rtl.access(offset)
        if value is None:
            raise BusError(f"there is no register at {offset:#x}")
        return value

    def write_register(self, offset, value):
        if self._rtl.access(offset, write=True, data=value) is None:
            raise BusError(f"there is no register at {offset:#x}")

    def read_memory(self, address, count):
        self._check_range(address, count)
        return self._memory[address:address + count].tobytes()

    def write_memory(self, address, content):
        self._check_range(address, len(content))
        self._memory[address:address + len(content)] = np.frombuffer(content, np.uint8)

    def wait_interrupt(self, timeout):
        end = time.monotonic() + timeout
        while not self._rtl.wait(_CYCLES_AT_A_TIME):
            if time.monotonic() > end:
                return False
        return True

    def close(self):
        self._rtl.close()
