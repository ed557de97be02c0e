"""The one description of an accelerator: :class:`ArchConfig`, its presets and its TOML form."""
import dataclasses
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ArchConfig", "ConfigError", "PRESETS", "SNN_PES", "load_config"]

SNN_PES = {"radix": "RadixPe", "dual_prefix": "SnnPe", "serial": "SerialPe", "binary": "BinaryPe"}    # kinds of SNN PE, and the blocks that they are


class ConfigError(ValueError):
    """A configuration that cannot exist; the message names the field and the reason."""


def _doc(text, default):
    return dataclasses.field(default=default, metadata={"doc": text})


@dataclass(frozen=True, kw_only=True)
class ArchConfig:
    """Every free parameter of the hybrid core; everything else is derived from these.

    All fields are integers but ``name`` and ``snn_pe``. A **line** is the unit of memory, cache and broadcast:
    ``chunk_bits`` bits, so that a chunk's mask is one line and holds ``chunk_bits / 8`` packed INT8 values.

    Raises
    ------
    ConfigError
        When a field is out of range or two fields contradict each other.
    """

    name: str = _doc("name of the configuration, used in file names and reports", "custom")
    chunk_bits: int = _doc("positions per chunk = bits of a mask = bits of a line (32, 64, 128 or 256)", 64)
    ann_pes: int = _doc("processing elements of the ANN core (power of two)", 4)
    snn_pes: int = _doc("processing elements of the SNN core (power of two)", 4)
    slots: int = _doc("activation chunks a PE can hold (power of two, 2 to 16)", 4)
    columns_per_pe: int = _doc("columns a PE can hold at a time (power of two, 2 to 64)", 16)
    row_buffers: int = _doc("rows a PE can have in flight: accumulator and output banks (power of two, 2 to 8)", 4)
    value_lines: int = _doc("lines of packed weights in a PE's slice, in each bank (power of two)", 512)
    mask_pairs: int = _doc("pairs of column masks in a PE's slice, in each bank (power of two)", 256)
    weight_banks: int = _doc("banks of a PE's slice: 1, or 2 so that a layer's weights come while the layer before runs", 1)
    snn_pe: str = _doc("how SNN PEs add: radix (read the level and add bit by bit), dual_prefix (speculate and correct, as LoAS does), "
                       "serial (a level q adds its weight q times) or binary (speculate, and correct bit by bit)", "radix")
    laggy_adders: int = _doc("adders of the laggy prefix sum: it takes chunk_bits / laggy_adders cycles", 16)
    snn_levels: int = _doc("largest number of levels an SNN column takes or gives (1 to 15)", 8)
    ann_acc_bits: int = _doc("accumulator of an ANN column, bits, signed", 28)
    snn_acc_bits: int = _doc("each accumulator of an SNN column, bits, signed", 22)
    theta_bits: int = _doc("threshold, bits, unsigned", 24)
    neuron_steps: int = _doc("PASC-IF steps per cycle", 2)
    cache_banks: int = _doc("FiberCache banks (power of two)", 4)
    cache_ways: int = _doc("FiberCache ways (power of two, 2 to 16)", 4)
    cache_sets: int = _doc("FiberCache sets per bank (power of two)", 128)
    fetch_ahead: int = _doc("chunks the fetch walk runs ahead of the read walk (power of two)", 8)
    pending_lines: int = _doc("lines that may be on their way from memory at a time (power of two)", 32)
    write_buffer: int = _doc("lines waiting to be written to memory (power of two)", 4)
    address_bits: int = _doc("bits of a line address", 24)

    def __post_init__(self):
        def fail(field, why):
            raise ConfigError(f"{field} = {getattr(self, field)!r}: {why}")

        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            want = field.type
            if not isinstance(value, want) or isinstance(value, bool):
                fail(field.name, f"must be {'a string' if want is str else 'an integer'}")
        if not self.name.isidentifier():
            fail("name", "must be a plain identifier, since it becomes part of file and module names")
        if self.snn_pe not in SNN_PES:
            fail("snn_pe", f"must be one of {', '.join(SNN_PES)}")

        powers = {"chunk_bits": (32, 256), "ann_pes": (2, 32), "snn_pes": (2, 32), "slots": (2, 16),
                  "columns_per_pe": (2, 64), "row_buffers": (2, 8), "value_lines": (16, 1 << 15),
                  "mask_pairs": (16, 1 << 15), "laggy_adders": (4, 256), "cache_banks": (2, 32),
                  "cache_ways": (2, 16), "cache_sets": (4, 4096), "fetch_ahead": (2, 64),
                  "pending_lines": (16, 256), "write_buffer": (2, 32)}
        ranges = {"snn_levels": (1, 15), "ann_acc_bits": (16, 40), "snn_acc_bits": (12, 32),
                  "theta_bits": (4, 31), "neuron_steps": (1, 4), "address_bits": (12, 32), "weight_banks": (1, 2)}
        for field, (low, high) in powers.items():
            value = getattr(self, field)
            if not low <= value <= high or value & (value - 1):
                fail(field, f"must be a power of two from {low} to {high}")
        for field, (low, high) in ranges.items():
            if not low <= getattr(self, field) <= high:
                fail(field, f"must be from {low} to {high}")
        for field in ("ann_pes", "snn_pes"):
            if getattr(self, field) > self.line_bytes:
                fail(field, f"a core may have at most chunk_bits / 8 = {self.line_bytes} PEs: "
                            "the compressor takes one output of each per cycle and packs one line")
        if self.laggy_adders > self.chunk_bits:
            fail("laggy_adders", f"must not exceed chunk_bits = {self.chunk_bits}")
        if self.theta_bits >= self.ann_acc_bits:
            fail("theta_bits", f"must be below ann_acc_bits = {self.ann_acc_bits}")
        if self.mask_pairs < self.pairs_per_pe:
            fail("mask_pairs", f"must hold one chunk of every column: at least {self.pairs_per_pe}")
        if self.cache_banks * self.cache_sets >= 1 << self.address_bits:
            fail("address_bits", "too few to tell cache lines apart: need more than log2(cache_banks * cache_sets)")

    # --- derived -------------------------------------------------------------------------------
    @property
    def line_bytes(self):
        """Bytes of a line, and packed values per line."""
        return self.chunk_bits // 8

    @property
    def chunk_lines(self):
        """Lines reserved per chunk in memory: one mask line and eight value lines, used or not."""
        return 9

    @property
    def pairs_per_pe(self):
        """Pairs of columns a PE can hold."""
        return self.columns_per_pe // 2

    @property
    def laggy_cycles(self):
        """Cycles the laggy prefix sum takes per chunk."""
        return self.chunk_bits // self.laggy_adders

    @property
    def value_base_bits(self):
        """Bits of a byte address in a PE's value memory."""
        return (self.value_lines * self.line_bytes - 1).bit_length()

    @property
    def overlap(self):
        """Whether a layer is loaded while the one before runs."""
        return self.weight_banks > 1

    @property
    def max_groups(self):
        """Largest number of PE groups that rows can be split over (a power of two)."""
        return min(self.ann_pes, self.snn_pes, 8)

    @property
    def lanes(self):
        """Outputs the compressor takes per cycle."""
        return max(self.ann_pes, self.snn_pes)

    @property
    def fingerprint(self):
        """CRC-32 of all fields but the name: what programs and accelerators are matched by."""
        fields = {name: value for name, value in self.to_dict().items() if name != "name"}
        return zlib.crc32(json.dumps(fields, sort_keys=True).encode())

    @property
    def cache_bytes(self):
        """FiberCache capacity in bytes."""
        return self.cache_banks * self.cache_ways * self.cache_sets * self.line_bytes

    # --- in and out ----------------------------------------------------------------------------
    def replace(self, **changes):
        """A copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values):
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown field {unknown[0]!r}; known fields: {', '.join(sorted(known))}")
        return cls(**values)

    def to_toml(self):
        """TOML text with each field's meaning as a comment; :meth:`from_toml` reads it back."""
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            text = f'"{value}"' if isinstance(value, str) else str(value)
            lines.append(f"{field.name} = {text}  # {field.metadata['doc']}")
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text):
        import tomllib      # not in the Python of older board images, where configurations come with programs

        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"not valid TOML: {error}") from error


PRESETS = {config.name: config for config in (
    ArchConfig(name="tiny", chunk_bits=32, ann_pes=2, snn_pes=2, columns_per_pe=16, value_lines=1024, mask_pairs=512,
               laggy_adders=8, cache_banks=4, cache_ways=4, cache_sets=128, ann_acc_bits=26, snn_acc_bits=20,
               theta_bits=22, address_bits=20),
    ArchConfig(name="small", chunk_bits=64, ann_pes=4, snn_pes=4, value_lines=1024, mask_pairs=512),
    ArchConfig(name="pynq_z2", chunk_bits=64, ann_pes=8, snn_pes=2, value_lines=512, mask_pairs=512,
               cache_banks=4, cache_ways=4, cache_sets=256, snn_levels=4),
    ArchConfig(name="paper", chunk_bits=128, ann_pes=16, snn_pes=16, slots=8, value_lines=1024, mask_pairs=512,
               laggy_adders=32, cache_banks=16, cache_ways=16, cache_sets=64),
)}


def load_config(name_or_path):
    """A preset by name, or a configuration from a TOML file.

    Raises
    ------
    ConfigError
        When it is neither, or the file's content is refused.
    """
    if str(name_or_path) in PRESETS:
        return PRESETS[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(f"{str(name_or_path)!r} is neither a preset ({', '.join(PRESETS)}) nor a file")
    try:
        return ArchConfig.from_toml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a TOML file, since it is not UTF-8 text (byte {error.start})") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
