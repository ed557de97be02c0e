"""Standard cells as a Liberty file describes them: functions, areas, pin capacitances, power and delay tables."""

__all__ = ["Arc", "Cell", "Library", "LibertyError", "Pin", "Table", "truth_table"]

import gzip
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_STATEMENT = re.compile(r"""\s*(?:
    (?P<end>\})\s*;? |
    (?P<name>\w+)\s*(?:
        :\s*(?P<value>"[^"]*"|[^;"]*?)\s*; |
        \((?P<arguments>(?:"[^"]*"|[^)"])*)\)\s*(?P<open>\{|;)?
    ))""", re.VERBOSE)
_CELL = re.compile(r"\bcell\s*\(\s*\"?(\w+)\"?\s*\)\s*\{")
_TOKEN = re.compile(r"\s*([A-Za-z_]\w*|[01]|[!'&*|+^()])")


class LibertyError(ValueError):
    """Text that is not Liberty as far as it is understood here; the message says where."""


@dataclass
class _Group:
    """A group: its arguments, simple attributes, complex attributes and groups, both by name in order."""

    arguments: list
    attributes: dict = field(default_factory=dict)
    complex: dict = field(default_factory=dict)
    groups: dict = field(default_factory=dict)

    def all(self, name):
        return self.groups.get(name, [])


def _words(text):
    return [word.strip().strip('"') for word in text.split(",")] if text.strip() else []


def _group(text, position, arguments):
    """Read the statements of a group up to its closing brace; returns it and the position behind."""
    group = _Group(arguments)
    while True:
        found = _STATEMENT.match(text, position)
        if not found:
            raise LibertyError(f"Liberty: no statement at character {position}: {text[position:position + 40]!r}")
        position = found.end()
        if found["end"]:
            return group, position
        name = found["name"]
        if found["value"] is not None:
            group.attributes[name] = found["value"].strip('"')
        elif found["open"] == "{":
            inner, position = _group(text, position, _words(found["arguments"]))
            group.groups.setdefault(name, []).append(inner)
        else:
            group.complex[name] = found["arguments"]


def _numbers(text):
    return np.array([float(word) for word in re.split(r"[\s,\"]+", text) if word])


class Table:
    """A look-up table over input slew (ns) and, where it has a second axis, load (pF).

    Between the points it is bilinear; outside it goes on at the value of the edge for slews, at the slope of the edge for loads.

    Parameters
    ----------
    slews, loads : float arrays
        Axes; one point stands for no dependence.
    values : float array (len(slews), len(loads))
    """

    def __init__(self, slews, loads, values):
        self.slews, self.loads = np.atleast_1d(slews), np.atleast_1d(loads)
        self.values = np.reshape(values, (len(self.slews), len(self.loads)))

    def __call__(self, slew, load):
        """Value at a slew and a load."""
        row = self.values[0]
        if len(self.slews) > 1:
            slew = min(max(slew, self.slews[0]), self.slews[-1])
            i = min(int(np.searchsorted(self.slews, slew, side="right")) - 1, len(self.slews) - 2)
            part = (slew - self.slews[i]) / (self.slews[i + 1] - self.slews[i])
            row = (1 - part) * self.values[i] + part * self.values[i + 1]
        if len(self.loads) == 1:
            return float(row[0])
        load = max(load, self.loads[0])
        i = min(int(np.searchsorted(self.loads, load, side="right")) - 1, len(self.loads) - 2)
        part = (load - self.loads[i]) / (self.loads[i + 1] - self.loads[i])
        return float((1 - part) * row[i] + part * row[i + 1])


def _table(group):
    values = _numbers(group.complex["values"])
    if "index_1" not in group.complex:
        return Table([0.0], [0.0], values[:1])
    first = _numbers(group.complex["index_1"])
    second = _numbers(group.complex["index_2"]) if "index_2" in group.complex else [0.0]
    return Table(first, second, values)


@dataclass(frozen=True)
class Arc:
    """From a related pin to an output: tables ``rise``, ``fall``, ``rise_slew``, ``fall_slew`` (ns) and the sense."""

    related: str
    sense: str
    kind: str
    tables: dict


@dataclass(frozen=True)
class Pin:
    """A pin of a cell.

    Attributes
    ----------
    direction, function : str
        ``function`` of an output, None where it has none.
    capacitance : float
        pF.
    power : dict
        Related pin ("" for the pin's own) → (rise, fall) tables of internal energy in pJ, one pair for each condition. As libraries do, those of an
        output may hold half of the load's ``C·V²`` with opposite signs: only a rise and a fall together are physical.
    arcs : list of Arc
        Delays to this output.
    setup : float
        Setup time of an input in ns, 0 where there is none.
    role : str
        ``clock``, ``enable``, ``out`` of an integrated clock gate, else "".
    """

    name: str
    direction: str
    function: str
    capacitance: float
    power: dict
    arcs: list
    setup: float
    role: str


@dataclass(frozen=True)
class Cell:
    """A cell: area in µm², mean leakage in nW, pins by name; ``register`` is (clock pin, next state) of a flip-flop, else None."""

    name: str
    area: float
    leakage: float
    pins: dict
    register: tuple
    state: tuple
    clock_gate: bool

    @property
    def inputs(self):
        return [pin.name for pin in self.pins.values() if pin.direction == "input"]

    @property
    def outputs(self):
        return [pin.name for pin in self.pins.values() if pin.direction == "output"]


class Library:
    """A Liberty file; cells are read when first asked for.

    Parameters
    ----------
    text : str

    Attributes
    ----------
    name : str
    voltage : float
        V, of the library's operating conditions.
    """

    def __init__(self, text):
        text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL).replace("\\\n", " ")
        head = re.search(r"\blibrary\s*\(\s*\"?([\w.]+)\"?\s*\)\s*\{", text)
        if not head:
            raise LibertyError("Liberty: no group `library`")
        self.name, self._text, self._cells = head[1], text, {}
        self._places = {found[1]: found.end() for found in _CELL.finditer(text)}
        first = min(self._places.values(), default=len(text))
        voltage = re.search(r"\bvoltage\s*:\s*([\d.]+)", text[:first]) or re.search(r"\bnom_voltage\s*:\s*([\d.]+)", text[:first])
        if not voltage:
            raise LibertyError(f"Liberty: library {self.name} states no voltage")
        self.voltage = float(voltage[1])
        for unit, pattern in (("1 ns", r"time_unit\s*:\s*\"?1ns"), ("1 pF", r"capacitive_load_unit\s*\(\s*1(?:\.0*)?\s*,\s*\"?pf")):
            if not re.search(pattern, text[:first], re.IGNORECASE):
                raise LibertyError(f"Liberty: library {self.name} must have the unit {unit}")

    @classmethod
    def load(cls, path):
        """From a file, gzipped or not."""
        data = Path(path).read_bytes()
        return cls((gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode())

    @property
    def names(self):
        """Names of all cells."""
        return list(self._places)

    @property
    def text(self):
        """The text, for tools that read Liberty."""
        return self._text

    def __getitem__(self, name):
        if name not in self._cells:
            if name not in self._places:
                raise LibertyError(f"Liberty: library {self.name} has no cell {name!r}")
            self._cells[name] = _cell(name, _group(self._text, self._places[name], [name])[0])
        return self._cells[name]


def _cell(name, group):
    pins = {pin.arguments[0]: _pin(pin) for pin in group.all("pin")}
    register = state = None
    for ff in group.all("ff"):
        register, state = (ff.attributes["clocked_on"].strip("()"), ff.attributes["next_state"]), tuple(ff.arguments)
    return Cell(name, float(group.attributes.get("area", 0)), float(group.attributes.get("cell_leakage_power", 0)), pins,
                register, state, "clock_gating_integrated_cell" in group.attributes)


def _pin(group):
    power, arcs, setup = {}, [], 0.0
    for one in group.all("internal_power"):
        pair = tuple(_table(one.all(kind)[0]) if one.all(kind) else None for kind in ("rise_power", "fall_power"))
        for related in (one.attributes.get("related_pin", "").split() or [""]):
            power.setdefault(related, []).append(pair)
    for one in group.all("timing"):
        kind = one.attributes.get("timing_type", "combinational")
        tables = {name: _table(one.all(table)[0]) for name, table in (
            ("rise", "cell_rise"), ("fall", "cell_fall"), ("rise_slew", "rise_transition"), ("fall_slew", "fall_transition")) if one.all(table)}
        if tables:
            arcs += [Arc(related, one.attributes.get("timing_sense", "non_unate"), kind, tables) for related in one.attributes["related_pin"].split()]
        elif kind.startswith("setup"):
            setup = max([setup] + [float(_table(edge).values.ravel()[0]) for name in ("rise_constraint", "fall_constraint") for edge in one.all(name)])
    role = next((role for role in ("clock", "enable", "out") if group.attributes.get(f"clock_gate_{role}_pin") == "true"), "")
    return Pin(group.arguments[0], group.attributes.get("direction", ""), group.attributes.get("function"),
               float(group.attributes.get("capacitance", 0)), power, arcs, setup, role)


def truth_table(function, pins):
    """Truth table of a Liberty function.

    Parameters
    ----------
    function : str
        With ``!`` or a trailing ``'`` for not, ``&`` or ``*``, ``|`` or ``+``, ``^``, parentheses, 0, 1.
    pins : list of str
        Variables; the first is the lowest bit of the index. At most six.

    Returns
    -------
    int
        Bit ``i`` is the value for the inputs ``i``.
    """
    if len(pins) > 6:
        raise LibertyError(f"function {function!r}: more than six inputs")
    size = 1 << len(pins)
    ones = (1 << size) - 1
    columns = {pin: sum(1 << i for i in range(size) if i >> place & 1) for place, pin in enumerate(pins)} | {"0": 0, "1": ones}
    tokens, position = [], 0
    while function[position:].strip():
        found = _TOKEN.match(function, position)
        if not found:
            raise LibertyError(f"function {function!r}: cannot read {function[position:]!r}")
        tokens.append(found[1])
        position = found.end()

    def take(*wanted):
        return tokens.pop(0) if tokens and tokens[0] in wanted else None

    def atom():
        if take("!"):
            value = ones ^ atom()
        elif take("("):
            value = either()
            if not take(")"):
                raise LibertyError(f"function {function!r}: a parenthesis is not closed")
        elif tokens and tokens[0] in columns:
            value = columns[tokens.pop(0)]
        else:
            raise LibertyError(f"function {function!r}: {tokens[0] if tokens else 'its end'!r} where a pin should be")
        while take("'"):
            value ^= ones
        return value

    def both():
        value = atom()
        while tokens and tokens[0] not in ("|", "+", "^", ")"):
            take("&", "*")
            value &= atom()
        return value

    def odd():
        value = both()
        while take("^"):
            value ^= both()
        return value

    def either():
        value = odd()
        while take("|", "+"):
            value |= odd()
        return value

    result = either()
    if tokens:
        raise LibertyError(f"function {function!r}: cannot read from {tokens[0]!r} on")
    return result
