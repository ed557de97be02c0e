"""The AXI side of the accelerator: its free parameters, and the codes that circuits, models and drivers share."""
import dataclasses
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["AXI_LITE_ADDRESS_BITS", "PAGE_BYTES", "AxiConfig", "Burst", "Response"]

PAGE_BYTES = 4096              # an AXI burst stays within a page of so many bytes; base registers count such pages
AXI_LITE_ADDRESS_BITS = 12     # the register interface takes one page


class Response(IntEnum):
    """Codes of BRESP and RRESP; bit 1 says that the access failed."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


class Burst(IntEnum):
    """Codes of AxBURST: what the address does from beat to beat."""

    FIXED = 0
    INCR = 1
    WRAP = 2
    RESERVED = 3


def _doc(text, default):
    return dataclasses.field(default=default, metadata={"doc": text})


@dataclass(frozen=True, kw_only=True)
class AxiConfig:
    """Free parameters of the AXI shell.

    Raises
    ------
    ValueError
        When a field is out of range.
    """

    data_bits: int = _doc("width of the AXI4 data bus: 64 or 128", 64)
    address_bits: int = _doc("bits of an AXI4 byte address, 32 to 44", 32)
    burst_beats: int = _doc("most beats of a burst (power of two, 8 to 256); up to 16 an AXI3 slave understands it too", 16)
    reads: int = _doc("read bursts that may be unanswered at a time (power of two, 4 to 32)", 8)
    writes: int = _doc("write bursts that may be unanswered at a time (power of two, 4 to 32)", 8)
    jobs: int = _doc("jobs that the queue holds besides the one that runs (power of two, 4 to 64)", 8)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{field.name} = {value!r}: must be an integer")
        powers = {"data_bits": (64, 128), "burst_beats": (8, 256), "reads": (4, 32), "writes": (4, 32), "jobs": (4, 64)}
        for name, (low, high) in powers.items():
            value = getattr(self, name)
            if not low <= value <= high or value & (value - 1):
                raise ValueError(f"{name} = {value}: must be a power of two from {low} to {high}")
        if not 32 <= self.address_bits <= 44:
            raise ValueError(f"address_bits = {self.address_bits}: must be from 32 to 44, since base registers count 2**32 pages")
        if self.burst_bytes > PAGE_BYTES:
            raise ValueError(f"burst_beats = {self.burst_beats}: a burst of {self.burst_bytes} bytes would be larger than a page of {PAGE_BYTES}")

    @property
    def beat_bytes(self):
        """Bytes of a beat."""
        return self.data_bits // 8

    @property
    def burst_bytes(self):
        """Bytes of the largest burst; bursts stay within aligned windows of this size."""
        return self.burst_beats * self.beat_bytes

    def lanes(self, config):
        """Lines per beat; 1 when a line is as wide as a beat or wider."""
        return max(1, self.data_bits // config.chunk_bits)

    def parts(self, config):
        """Beats per line; 1 when a line is as wide as a beat or narrower."""
        return max(1, config.chunk_bits // self.data_bits)

    def window_lines(self, config):
        """Lines of an aligned window: the most that a burst can carry."""
        return self.burst_bytes // config.line_bytes
