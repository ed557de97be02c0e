"""The processing elements of one core, split into groups that work on different rows."""
from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from neuroflex.formats import LEVEL_BITS, Core
from neuroflex.hdl.ann_pe import AnnPe
from neuroflex.hdl.binary_pe import BinaryPe
from neuroflex.hdl.pe import pe_ports
from neuroflex.hdl.radix_pe import RadixPe
from neuroflex.hdl.serial_pe import SerialPe
from neuroflex.hdl.snn_pe import SnnPe

__all__ = ["PeArray"]

_SNN_PES = {"dual_prefix": SnnPe, "serial": SerialPe, "binary": BinaryPe, "radix": RadixPe}    # by ArchConfig.snn_pe


class PeArray(wiring.Component):
    """All PEs of a core. PE ``i`` belongs to group ``i // Pg`` and is number ``i % Pg`` in it, ``Pg = PEs >> groups_log2``.

    Parameters
    ----------
    config : ArchConfig
    core : Core

    Members
    -------
    groups_log2 : In
        The PEs form ``2**groups_log2`` groups, at most ``max_groups``.
    load_groups_log2, swap : In
        Only with two weight banks: the groups of the layer that is loaded; see :func:`~neuroflex.hdl.pe.pe_ports`.
    levels_in, clear, load, bus, y_bank, y_index : In
        To all PEs, see :func:`~neuroflex.hdl.pe.pe_ports`; a load beat is for the PEs of this core with its number.
    slot_free, row_free : Out(max_groups)
        Bit g: every PE of group g has a free slot, row buffer. 1 for groups that do not exist.
    enabled : Out(PEs)
    columns : Out(PEs * bits), done : Out(PEs * bits), y : Out(PEs * 7)
        One field for each PE, PE 0 lowest.
    matching : Out(PEs)
        The PE issues a match in this cycle.
    idle : Out(1)
        No PE holds a chunk or a row.
    """

    def __init__(self, config, core):
        self._config, self._core = config, Core(core)
        ports = pe_ports(config)
        pes = self.pes
        super().__init__({
            "groups_log2": In(range((config.max_groups - 1).bit_length() + 1)),
            **({"load_groups_log2": In(range((config.max_groups - 1).bit_length() + 1)), "swap": In(1)} if config.overlap else {}),
            **{name: ports[name] for name in ("levels_in", "clear", "load", "bus", "y_bank", "y_index")},
            "slot_free": Out(config.max_groups),
            "row_free": Out(config.max_groups),
            "enabled": Out(pes),
            "columns": Out(pes * config.columns_per_pe.bit_length()),
            "done": Out(pes * (2 * config.row_buffers - 1).bit_length()),
            "y": Out(pes * LEVEL_BITS),
            "matching": Out(pes),
            "idle": Out(1),
        })

    @property
    def pes(self):
        """Number of PEs."""
        return self._config.ann_pes if self._core == Core.ANN else self._config.snn_pes

    def elaborate(self, platform):
        m = Module()
        config = self._config
        kind = AnnPe if self._core == Core.ANN else _SNN_PES[config.snn_pe]
        pes = []
        for index in range(self.pes):
            m.submodules[f"pe_{index}"] = pe = kind(config)
            pes.append(pe)
            # With 2**k groups the group is the upper k bits of the PE's index, its number in the group the others.
            index_bits = (self.pes - 1).bit_length()
            number = Signal(len(self.load.pe), name=f"number_{index}")
            with m.Switch(self.groups_log2):
                for groups_log2 in range((config.max_groups - 1).bit_length() + 1):
                    with m.Case(groups_log2):
                        left = index_bits - groups_log2
                        m.d.comb += pe.group.eq(index >> left)
                        if not config.overlap:
                            m.d.comb += number.eq(index & ((1 << left) - 1))
            if config.overlap:
                with m.Switch(self.load_groups_log2):
                    for groups_log2 in range((config.max_groups - 1).bit_length() + 1):
                        with m.Case(groups_log2):
                            m.d.comb += number.eq(index & ((1 << index_bits - groups_log2) - 1))
                m.d.comb += pe.swap.eq(self.swap)
            m.d.comb += [getattr(pe, name).eq(getattr(self, name))
                         for name in ("levels_in", "clear", "load", "bus", "y_bank", "y_index")]
            m.d.comb += pe.load_here.eq((self.load.core == self._core) & (self.load.pe == number))
        for name in ("slot_free", "row_free"):
            m.d.comb += getattr(self, name).eq(Cat(
                Cat(getattr(pe, name) | (pe.group != group) for pe in pes).all() for group in range(config.max_groups)))
        m.d.comb += [
            self.enabled.eq(Cat(pe.enabled for pe in pes)), self.columns.eq(Cat(pe.columns for pe in pes)),
            self.done.eq(Cat(pe.done for pe in pes)),
            self.y.eq(Cat(pe.y for pe in pes)), self.matching.eq(Cat(pe.matching for pe in pes)),
            self.idle.eq(~Cat(pe.busy for pe in pes).any()),
        ]
        return m
