"""The accelerator of a board without a processor: local memory, and a serial line to the host."""
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from neuroflex.hdl.block_memory import BlockMemory
from neuroflex.hdl.top import NeuroFlex
from neuroflex.hdl.uart_bridge import UartBridge

__all__ = ["UartSystem"]


class UartSystem(wiring.Component):
    """:class:`NeuroFlex` with its memory in block RAM, its registers and memory behind a :class:`UartBridge`.

    Parameters
    ----------
    config : ArchConfig
    depth : int
        Lines of memory, see :class:`BlockMemory`.
    divisor : int
        Clock cycles per bit of the serial line.

    Members
    -------
    rx, tx : lines, 8N1
    irq : Out(1)
        See ``docs/registers.md``.
    """

    def __init__(self, *, config, depth, divisor):
        self._config, self._depth, self._divisor = config, depth, divisor
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.neuroflex = neuroflex = NeuroFlex(config=self._config)
        m.submodules.block_memory = memory = BlockMemory(config=self._config, depth=self._depth)
        m.submodules.uart_bridge = bridge = UartBridge(divisor=self._divisor)
        wiring.connect(m, neuroflex.memory, memory.memory)
        wiring.connect(m, bridge.registers_request, neuroflex.registers_request)
        wiring.connect(m, neuroflex.registers_response, bridge.registers_response)
        wiring.connect(m, bridge.memory_request, memory.host_request)
        wiring.connect(m, memory.host_response, bridge.memory_response)
        m.d.comb += [bridge.rx.eq(self.rx), self.tx.eq(bridge.tx), self.irq.eq(neuroflex.irq)]
        return m
