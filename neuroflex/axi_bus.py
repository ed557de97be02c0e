"""AXI buses as typed signatures, and the payloads between the blocks of the AXI shell.

Members have the names of the AXI specification in small letters (``awaddr``), so that a port ``m_axi`` of a top module becomes
``m_axi_awaddr``, which is what vendors' tools look for.
"""
from amaranth.hdl import Shape
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.axi import AXI_LITE_ADDRESS_BITS, AxiConfig, Burst
from neuroflex.config import ArchConfig

__all__ = ["INCR", "MODIFIABLE_BUFFERABLE", "axi3_general_signature", "axi_burst_layout", "axi_lite_signature", "axi_read_signature", "axi_write_signature", "check_parameters",
           "shell_request"]

INCR = Burst.INCR
MODIFIABLE_BUFFERABLE = 3   # AxCACHE of ordinary memory


def check_parameters(config, axi):
    """The parameters of a block; TypeError when they are not an `ArchConfig` and an `AxiConfig`."""
    for name, value, kind in (("config", config, ArchConfig), ("axi", axi, AxiConfig)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be an {kind.__name__}, not {value!r}")
    return config, axi


def axi_lite_signature():
    """AXI4-Lite with 32 data bits, from the master's side."""
    return wiring.Signature({
        "awaddr": Out(AXI_LITE_ADDRESS_BITS), "awprot": Out(3), "awvalid": Out(1), "awready": In(1),
        "wdata": Out(32), "wstrb": Out(4), "wvalid": Out(1), "wready": In(1),
        "bresp": In(2), "bvalid": In(1), "bready": Out(1),
        "araddr": Out(AXI_LITE_ADDRESS_BITS), "arprot": Out(3), "arvalid": Out(1), "arready": In(1),
        "rdata": In(32), "rresp": In(2), "rvalid": In(1), "rready": Out(1)})


def axi3_general_signature():
    """AXI3 as the general-purpose port of a Zynq-7000 speaks it, from the master's side: 32 bits, IDs of 12 bits, bursts of up to 16 beats.

    Without locks, cache and protection bits, which registers have no use for.
    """
    def address(letter):
        return {f"a{letter}id": Out(12), f"a{letter}addr": Out(32), f"a{letter}len": Out(4), f"a{letter}size": Out(2), f"a{letter}burst": Out(2),
                f"a{letter}valid": Out(1), f"a{letter}ready": In(1)}
    return wiring.Signature({
        **address("w"), "wid": Out(12), "wdata": Out(32), "wstrb": Out(4), "wlast": Out(1), "wvalid": Out(1), "wready": In(1),
        "bid": In(12), "bresp": In(2), "bvalid": In(1), "bready": Out(1),
        **address("r"), "rid": In(12), "rdata": In(32), "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1)})


def _address(axi, letter):
    return {f"a{letter}id": Out(1), f"a{letter}addr": Out(axi.address_bits), f"a{letter}len": Out(8), f"a{letter}size": Out(3),
            f"a{letter}burst": Out(2), f"a{letter}cache": Out(4), f"a{letter}prot": Out(3), f"a{letter}valid": Out(1),
            f"a{letter}ready": In(1)}


def axi_read_signature(axi):
    """Read channels of AXI4, from the master's side."""
    return wiring.Signature({
        **_address(axi, "r"), "rid": In(1), "rdata": In(axi.data_bits), "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1)})


def axi_write_signature(axi):
    """Write channels of AXI4, from the master's side."""
    return wiring.Signature({
        **_address(axi, "w"), "wdata": Out(axi.data_bits), "wstrb": Out(axi.beat_bytes), "wlast": Out(1), "wvalid": Out(1), "wready": In(1),
        "bid": In(1), "bresp": In(2), "bvalid": In(1), "bready": Out(1)})


def axi_burst_layout(config, axi):
    """An AXI burst on its way to the bus.

    Members
    -------
    write
    address
        Byte address of the first beat, aligned to beats.
    length
        Beats - 1, as AxLEN wants it.
    lane
        Place of the first line in the first beat, when a beat holds several lines.
    lines
        Lines that it carries.
    last
        The last burst of its request.
    """
    return data.StructLayout({
        "write": 1, "address": axi.address_bits, "length": 8, "lane": Shape.cast(range(max(axi.lanes(config), 2))),
        "lines": Shape.cast(range(axi.window_lines(config) + 1)), "last": 1})


def shell_request():
    """A register access from the bus: byte ``address`` within the page, ``write``, ``data``."""
    return data.StructLayout({"address": AXI_LITE_ADDRESS_BITS, "write": 1, "data": 32})
