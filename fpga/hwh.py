"""Hardware hand-off files, from which ``pynq.Overlay`` learns what a bitstream holds: one block of registers, and the clock.

Vivado writes such files for block designs; this project has none, so it writes the part of them that PYNQ reads.
"""
import xml.etree.ElementTree as xml

from neuroflex import registers
from neuroflex.axi import PAGE_BYTES
from neuroflex.fpga.pynq_device import INSTANCE
from neuroflex.registers import Access

__all__ = ["ClockError", "IP", "hardware_handoff"]

IP = "neuroflex:accelerator:axi:1.0"        # vendor, library, name, version
_IO_PLL_MHZ = 1000
_ACCESS = {Access.RO: "read-only", Access.WO: "write-only", Access.W1P: "write-only", Access.RW: "read-write", Access.W1C: "read-write"}


class ClockError(ValueError):
    """A clock that the processor cannot make."""


def hardware_handoff(*, base, clock_mhz, design, part="xc7z020clg400-1"):
    """Contents of the ``.hwh`` file of the accelerator with its AXI shell on a Zynq-7000.

    Parameters
    ----------
    base : int
        Byte address of its page of registers, as the processor sees it.
    clock_mhz : float
        FCLK0, which PYNQ sets when it loads the bitstream.
    design : str
        Name of the bitstream.
    part : str

    Returns
    -------
    str
        XML; equal arguments give equal text.

    Raises
    ------
    ClockError
    """
    device, package, grade = part[2:7], part[7:13], part[13:]
    root = xml.Element("EDKSYSTEM", EDWVERSION="1.2", TIMESTAMP="Thu Jan  1 00:00:00 1970", VIVADOVERSION="2022.1")
    _add(root, "SYSTEMINFO", ARCH="zynq", DEVICE=device, NAME=design, PACKAGE=package, SPEEDGRADE=grade)
    _add(root, "EXTERNALPORTS")
    _add(root, "EXTERNALINTERFACES")
    modules = _add(root, "MODULES")
    _processor(modules, base, clock_mhz)
    _accelerator(modules)
    xml.indent(root)
    return xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add(parent, tag, **attributes):
    return xml.SubElement(parent, tag, attributes)


def _properties(parent, **values):
    for name, value in values.items():
        _add(parent, "PROPERTY", NAME=name, VALUE=str(value))


def _processor(modules, base, clock_mhz):
    processor = _add(modules, "MODULE", FULLNAME="/ps7_0", HWVERSION="5.5", INSTANCE="ps7_0", IPTYPE="PERIPHERAL", IS_ENABLE="1", IS_PL="FALSE",
                     MODTYPE="processing_system7", VLNV="xilinx.com:ip:processing_system7:5.5")
    parameters = _add(processor, "PARAMETERS")
    first, second = _dividers(clock_mhz)
    for number in range(4):
        for name, value in ((f"PCW_FPGA_FCLK{number}_ENABLE", int(number == 0)), (f"PCW_FCLK{number}_PERIPHERAL_CLKSRC", "IO PLL"),
                            (f"PCW_FCLK{number}_PERIPHERAL_DIVISOR0", first), (f"PCW_FCLK{number}_PERIPHERAL_DIVISOR1", second),
                            (f"PCW_FPGA{number}_PERIPHERAL_FREQMHZ", clock_mhz),
                            # Some versions of PYNQ look for the name that newer parts have.
                            (f"PSU__CRL_APB__PL{number}_REF_CTRL__ACT_FREQMHZ", clock_mhz)):
            _add(parameters, "PARAMETER", NAME=name, VALUE=str(value))
    _add(processor, "PORTS")
    _port(processor, "M_AXI_GP0", "MASTER")
    _add(_add(processor, "MEMORYMAP"), "MEMRANGE", ADDRESSBLOCK="reg0", BASENAME="C_BASEADDR", BASEVALUE=f"0x{base:08X}", HIGHNAME="C_HIGHADDR",
         HIGHVALUE=f"0x{base + PAGE_BYTES - 1:08X}", INSTANCE=INSTANCE, IS_DATA="TRUE", IS_INSTRUCTION="TRUE", MASTERBUSINTERFACE="M_AXI_GP0",
         MEMTYPE="REGISTER", SLAVEBUSINTERFACE="S_AXI")


def _accelerator(modules):
    module = _add(modules, "MODULE", FULLNAME=f"/{INSTANCE}", HWVERSION="1.0", INSTANCE=INSTANCE, IPTYPE="PERIPHERAL", IS_ENABLE="1", IS_PL="TRUE",
                  MODTYPE=IP.split(":")[2], VLNV=IP)
    block = _add(_add(module, "ADDRESSBLOCKS"), "ADDRESSBLOCK", ACCESS="read-write", INTERFACE="S_AXI", NAME="reg0", RANGE=str(PAGE_BYTES),
                 USAGE="register")
    listed = _add(block, "REGISTERS")
    for register in registers.REGISTERS + registers.SHELL_REGISTERS:
        kinds = {_ACCESS[field.access] for field in register.fields}
        made = _add(listed, "REGISTER", NAME=register.name)
        reset = sum(field.reset << field.lsb for field in register.fields)
        _properties(made, DESCRIPTION=register.doc, ADDRESS_OFFSET=register.offset, SIZE=32, ACCESS=kinds.pop() if len(kinds) == 1 else "read-write",
                    IS_ENABLED="true", RESET_VALUE=reset)
        fields = _add(made, "FIELDS")
        for field in register.fields:
            _properties(_add(fields, "FIELD", NAME=field.name), DESCRIPTION=field.doc, ADDRESS_OFFSET=register.offset, ACCESS=_ACCESS[field.access],
                        MODIFIED_WRITE_VALUES="", BIT_OFFSET=field.lsb, BIT_WIDTH=field.bits, SIZE=field.bits, IS_ENABLED="true", RESET_VALUE=field.reset)
    _add(module, "PARAMETERS")
    _add(module, "PORTS")
    _port(module, "S_AXI", "SLAVE")


def _port(module, name, kind):
    interface = _add(_add(module, "BUSINTERFACES"), "BUSINTERFACE", BUSNAME="ps7_0_M_AXI_GP0", DATAWIDTH="32", NAME=name, TYPE=kind,
                     VLNV="xilinx.com:interface:aximm:1.0")
    _add(interface, "PORTMAPS")


def _dividers(clock_mhz):
    """Two dividers of up to 63 whose product gives the clock."""
    for first in range(1, 64):
        for second in range(1, first + 1):
            if abs(_IO_PLL_MHZ / (first * second) - clock_mhz) < 1e-6:
                return first, second
    raise ClockError(f"no two dividers up to 63 make {clock_mhz} MHz of the processor's {_IO_PLL_MHZ} MHz; 50, 62.5, 100 and 125 MHz work")
