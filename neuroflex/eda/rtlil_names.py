"""Amaranth's RTLIL made readable: one module for all instances that are alike, and names that say where a signal comes from.

Amaranth writes a module for every instance, numbers signals of equal names (``busy$75``), and calls ports that it adds after numbers of its netlist
(``port$4402$0``). None of this changes the circuit.
"""

import re
from os.path import commonprefix

__all__ = ["readable"]

_MODULE = re.compile(r"^(?:attribute [^\n]*\n)*module \\(\S+)\n.*?^end\n", re.MULTILINE | re.DOTALL)
_CELL = re.compile(r"^  cell \\(\S+) \\(\S+)\n(.*?)^  end\n", re.MULTILINE | re.DOTALL)
_WIRE = re.compile(r"^  wire (.*)\\(\S+)\s*$", re.MULTILINE)
_CONNECT = re.compile(r"^    connect \\(\S+) (.*)$", re.MULTILINE)
_ADDED = re.compile(r"port\$(\d+)\$(\d+)")
_NUMBERED = re.compile(r"(\w+\$\d+)(.*)")


def readable(text):
    """Rename signals and share modules.

    Parameters
    ----------
    text : str
        RTLIL as Amaranth writes it: each module has one instance.

    Returns
    -------
    str
        The same circuit. Equal texts give equal texts. Modules that are equal but for their names, and those of their submodules, become one; its
        name is what their names have in common. The top keeps its name and its ports theirs.
    """
    modules = {match[1]: match[0] for match in _MODULE.finditer(text)}
    held = {name: _instances(body, modules) for name, body in modules.items()}
    order = _children_first(held)
    outside = {kind: connected for instances in held.values() for kind, _, connected in instances}
    renamed, texts = {}, {}
    for name in order:
        renamed[name] = _names(modules[name], held[name], outside.get(name, {}), renamed)
        texts[name] = _rename(modules[name], renamed[name], renamed)
    return text[:_MODULE.search(text).start()] + _share(texts, order, list(modules))


def _connections(body, groups):
    """What ports or signals are connected to, name → signal; a whole signal is without its bits."""
    widths = {name: re.search(r"width (\d+)", kind)[1] for kind, name in _WIRE.findall(body)}

    def whole(signal):
        match = re.fullmatch(r"\\(\S+) \[(\d+)(?::0)?\]", signal)
        return f"\\{match[1]}" if match and match[1] in widths and int(widths[match[1]]) == int(match[2]) + 1 else signal

    return [(*parts, {name: whole(signal) for name, signal in pairs}) for parts, pairs in groups]


def _instances(body, modules):
    """Submodules of a module: kind, name, and its ports with what they are connected to."""
    return _connections(body, [((cell[1], cell[2]), _CONNECT.findall(cell[3])) for cell in _CELL.finditer(body) if cell[1] in modules])


def _children_first(held):
    found = {}

    def visit(name):
        if name not in found:
            for kind, _, _ in held[name]:
                visit(kind)
            found[name] = None

    for name in held:
        visit(name)
    return list(found)


def _names(body, instances, outside, renamed):
    """New names of a module's signals, old → new. ``outside`` is what its ports are connected to."""
    wires = _WIRE.findall(body)
    used = {name for _, name in wires} | set(re.findall(r"^  (?:cell|memory) .*\\(\S+)$", body, re.MULTILINE))

    def free(wanted):
        name, number = wanted, 1
        while name in used:
            number += 1
            name = f"{wanted}_{number}"
        used.add(name)
        return name

    # A signal of which there are several is called after the submodule whose port of that name it is, where there is one such submodule.
    ports = {}
    for kind, instance, connected in instances:
        for port, signal in connected.items():
            ports.setdefault((signal, port.partition("$")[0]), []).append(instance)
    (same,), = _connections(body, [((), re.findall(r"^connect \\(\S+) (.*)$", body, re.MULTILINE))])
    new, bases = {}, {}
    # A port that is also called as it is outside takes that name.
    for kind, name in wires:
        known = outside.get(name, "")[1:].partition("$")[0]
        if "$" in name and re.search("(in|out)put", kind) and same.get(known) == f"\\{name}" and known not in new:
            new[name], new[known] = known, free(known)
    added = sorted((tuple(map(int, match.groups())), direction, name) for direction, name in wires if (match := _ADDED.fullmatch(name)))
    for _, direction, name in added:
        new[name] = free(_of_outside(outside.get(name, "")) or ("input_part" if "input" in direction else "output_part"))
    for _, name in wires:
        match = _NUMBERED.fullmatch(name)
        if match and name not in new:
            base, rest = match.groups()
            if base not in bases:
                plain = base.partition("$")[0]
                owners = ports.get((f"\\{base}", plain)) or ports.get((same.get(base), plain), ())
                bases[base] = free(f"{owners[0]}_{plain}" if len(owners) == 1 else plain)
            new[name] = bases[base] + rest
    return new


def _of_outside(signal):
    """A name for a port after a part of a named signal; None for what has no name."""
    match = re.fullmatch(r"\\(\w+)(?:\$\d+)?(?: \[(\d+)(?::(\d+))?\])?", signal)
    return "_".join(filter(None, match.groups())) if match and not match[1].startswith("port") else None


def _rename(body, new, of_module):
    """A module with its signals and its submodules' ports renamed."""
    kind, connects, lines = None, [], []
    for line in body.splitlines():
        cell = re.match(r"  cell \\(\S+) ", line)
        if cell:
            kind = cell[1] if cell[1] in of_module else None
        if kind and line.startswith("    connect "):
            _, port, signal = line.strip().split(" ", 2)
            connects.append(f"    connect \\{of_module[kind].get(port[1:], port[1:])} {_signals(signal, new)}")
            continue
        if line == "  end":
            lines += sorted(connects)
            connects, kind = [], None
        lines.append(line if re.match(r" *(parameter|attribute|cell|module) ", line) else _signals(line, new))
    return "\n".join(lines) + "\n"


def _signals(text, new):
    return re.sub(r"\\(\S+)", lambda match: "\\" + new.get(match[1], match[1]), text)


def _share(texts, order, written):
    """One module for equal ones."""
    first, alike, bodies = {}, {}, {}
    for name in order:
        body = _kinds(texts[name].replace(f"module \\{name}\n", "module\n", 1), first)
        one = first[name] = bodies.setdefault(body, name)
        alike.setdefault(one, []).append(name)
    taken, kept = set(texts), {}
    for one in filter(alike.__contains__, written):
        common = _common(sorted(alike[one], key=written.index))
        kept[one] = one if common is None or common in taken else common
        taken.add(kept[one])
    final = {name: kept[one] for name, one in first.items()}
    return "".join(_kinds(texts[name].replace(f"module \\{name}\n", f"module \\{kept[name]}\n", 1), final) + "\n" for name in written if name in kept)


def _kinds(body, names):
    return re.sub(r"^  cell \\(\S+) ", lambda match: f"  cell \\{names.get(match[1], match[1])} ", body, flags=re.MULTILINE)


def _common(names):
    """What paths such as ``top.array.pe_0.unit`` and ``top.array.pe_1.unit`` have in common: ``top.array.pe.unit``; None for nothing."""
    if len(names) == 1:
        return None
    paths = [name.split(".") for name in names]
    if len({len(path) for path in paths}) > 1:      # at different places: where they part, and their own names
        shared = [parts[0] for parts in zip(*(path[:-1] for path in paths)) if len(set(parts)) == 1]
        paths = [[*shared, path[-1]] for path in paths]
    found = [_words(parts) for parts in zip(*paths)]
    return ".".join(found) if all(found) else None


def _words(parts):
    """The words at the beginning and at the end that all names have."""
    split = [part.split("_") for part in parts]
    head = commonprefix(split)
    return "_".join(head + commonprefix([words[len(head):][::-1] for words in split])[::-1])
