"""The accelerator as a block for a system on chip: AXI4-Lite registers, AXI4 master, interrupt, queue of jobs (docs/axi.md)."""
from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from neuroflex.axi_bus import axi_lite_signature, axi_read_signature, axi_write_signature, check_parameters
from neuroflex.hdl.axi_lite import AxiLite
from neuroflex.hdl.axi_master import AxiMaster
from neuroflex.hdl.job_queue import JobQueue
from neuroflex.hdl.top import NeuroFlex

__all__ = ["AxiShell", "NeuroFlexAxi"]


def _ports(axi):
    """Ports by the names that vendors' tools know, each on its own: Amaranth would put two underscores between bus and signal."""
    ports = {f"s_axi_{name}": member.flip() for name, member in axi_lite_signature().members.items()}
    for signature in (axi_write_signature(axi), axi_read_signature(axi)):
        ports |= {f"m_axi_{name}": member for name, member in signature.members.items()}
    return ports | {"irq": Out(1)}


class AxiShell(wiring.Component):
    """:class:`~neuroflex.hdl.top.NeuroFlex` between AXI4-Lite and AXI4, in the clock domain ``sync``; for simulation and for designs in Amaranth.

    Parameters
    ----------
    config : ArchConfig
    axi : AxiConfig

    Members
    -------
    s_axi_... : AXI4-Lite slave, see :class:`~neuroflex.hdl.axi_lite.AxiLite`
    m_axi_... : AXI4 master, see :class:`~neuroflex.hdl.axi_master.AxiMaster`
    irq : Out(1)
        See :class:`~neuroflex.hdl.job_queue.JobQueue`.
    """

    def __init__(self, *, config, axi):
        self._config, self._axi = check_parameters(config, axi)
        super().__init__(_ports(axi))

    def elaborate(self, platform):
        m = Module()
        m.submodules.neuroflex = neuroflex = NeuroFlex(config=self._config)
        m.submodules.axi_lite = lite = AxiLite()
        m.submodules.job_queue = queue = JobQueue(axi=self._axi)
        m.submodules.axi_master = master = AxiMaster(config=self._config, axi=self._axi)
        wiring.connect(m, lite.request, queue.host_request)
        wiring.connect(m, queue.host_response, lite.response)
        wiring.connect(m, queue.core_request, neuroflex.registers_request)
        wiring.connect(m, neuroflex.registers_response, queue.core_response)
        wiring.connect(m, neuroflex.memory, master.memory)
        m.d.comb += [queue.core_irq.eq(neuroflex.irq), self.irq.eq(queue.irq)]
        m.d.comb += [getattr(master, name).eq(getattr(queue, name)) for name in ("program_page", "tensor_page", "tensor_line")]
        for prefix, bus, signature in (("s_axi", lite.bus, axi_lite_signature().flip()), ("m_axi", master.write, axi_write_signature(self._axi)),
                                       ("m_axi", master.read, axi_read_signature(self._axi))):
            for name, member in signature.members.items():
                outside, inside = getattr(self, f"{prefix}_{name}"), getattr(bus, name)
                m.d.comb += outside.eq(inside) if member.flow is Out else inside.eq(outside)
        return m


class NeuroFlexAxi(wiring.Component):
    """:class:`AxiShell` with its clock ``aclk`` and its reset ``aresetn`` (synchronous, low for at least one cycle) as ports.

    Parameters
    ----------
    config : ArchConfig
    axi : AxiConfig
    """

    def __init__(self, *, config, axi):
        self._shell = AxiShell(config=config, axi=axi)
        self._names = tuple(_ports(axi))
        super().__init__({"aclk": In(1), "aresetn": In(1), **_ports(axi)})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync = ClockDomain()
        m.submodules.shell = shell = self._shell
        m.d.comb += [sync.clk.eq(self.aclk), sync.rst.eq(~self.aresetn)]
        for name in self._names:
            outside, inside = getattr(self, name), getattr(shell, name)
            m.d.comb += outside.eq(inside) if self.signature.members[name].flow is Out else inside.eq(outside)
        return m
