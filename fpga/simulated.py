"""The accelerator in simulation: the Verilated RTL with a memory behind it."""
import time

import numpy as np

from neuroflex.axi import PAGE_BYTES
from neuroflex.fpga.device import BusError, Device

__all__ = ["SimulatedDevice", "SimulatedShell"]

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

    def wait_interrupt(self, timeout, *, queued=False):
        """That of jobs: there is no queue."""
        end = time.monotonic() + timeout
        while not self._rtl.wait(_CYCLES_AT_A_TIME):
            if time.monotonic() > end:
                return False
        return True

    def close(self):
        self._rtl.close()


class SimulatedShell(Device):
    """The same behind its AXI shell, as on a Zynq board: registers through AXI4-Lite, memory through bursts, and a queue of jobs.

    Parameters
    ----------
    config : ArchConfig
    shell : AxiConfig
    memory_bytes : int
        Whole pages of 4096 bytes.
    latency : int
        Of memory, in cycles.
    **options
        Of :class:`~neuroflex.tb.axi_system.AxiSystem`.

    Attributes
    ----------
    system : AxiSystem
        What is simulated: how memory behaves, the cycle it is in.
    """

    def __init__(self, config, shell, *, memory_bytes=16 << 20, latency=20, **options):
        from neuroflex.tb import axi_system

        self.system = axi_system.AxiSystem(config, shell, memory_bytes=memory_bytes, latency=latency, **options)
        self.system.manners(decodes=True)
        self.memory_bytes, self.page = memory_bytes, self.system.base // PAGE_BYTES
        self._refused = axi_system.BusError

    def read_register(self, offset):
        try:
            return self.system.read(offset)
        except self._refused as error:
            raise BusError(str(error)) from None

    def write_register(self, offset, value):
        try:
            self.system.write(offset, value)
        except self._refused as error:
            raise BusError(str(error)) from None

    def read_memory(self, address, count):
        self._check_range(address, count)
        return self.system.memory[address:address + count].tobytes()

    def write_memory(self, address, content):
        self._check_range(address, len(content))
        self.system.memory[address:address + len(content)] = np.frombuffer(content, np.uint8)

    def wait_interrupt(self, timeout, *, queued=False):
        end = time.monotonic() + timeout
        while self.system.wait(_CYCLES_AT_A_TIME, until_interrupt=True) == _CYCLES_AT_A_TIME:
            if time.monotonic() > end:
                return False
        return True

    def close(self):
        self.system.close()
