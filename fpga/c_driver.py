"""The driver in C: its two files, and programs as C source that can be linked with it."""
import re
import string
from pathlib import Path

from neuroflex import registers
from neuroflex.axi import PAGE_BYTES
from neuroflex.formats import CHUNK_LINES, Status
from neuroflex.fpga.device import JobError

__all__ = ["c_driver", "c_program"]

_TEMPLATES = Path(__file__).with_name("templates")


def c_driver():
    """The driver's files, from the definitions of registers and status codes.

    They need ``registers.h``, with the AXI shell's registers, beside them.

    Returns
    -------
    dict of str to str
        File name → text.
    """
    texts = {status: JobError.MEANING.get(status, {Status.NONE: "no job has ended", Status.DONE: "the job is done"}.get(status)) for status in Status}
    first, second = (registers.register(f"{counter.name}_low").offset for counter in registers.COUNTERS[:2])
    if second - first != 8:
        raise AssertionError("counters must be pairs of registers in a row")
    values = {
        "STATUS_CODES": ",\n".join(f"    NEUROFLEX_STATUS_{status.name} = {status.value}" for status in Status),
        "STATUS_TEXTS": "\n".join(f'    case NEUROFLEX_STATUS_{status.name}: return "{text}";' for status, text in texts.items()),
        "COUNTER_NUMBERS": ",\n".join(f"    NEUROFLEX_COUNT_{counter.name.upper()} = {number}" for number, counter in enumerate(registers.COUNTERS)),
        "IDENTITY": f"0x{registers.IDENTITY:08X}", "VERSION_MAJOR": registers.VERSION >> 16, "PAGE_BYTES": PAGE_BYTES, "CHUNK_LINES": CHUNK_LINES,
        "COUNTER_BASE": f"0x{first:02X}"}
    return {name: re.sub("@([A-Z_]+)@", lambda found: str(values[found[1]]), (_TEMPLATES / name).read_text()) for name in ("neuroflex.h", "neuroflex.c")}


def c_program(image, name):
    """A program as C source: ``const struct neuroflex_program NAME``.

    Parameters
    ----------
    image : neuroflex.compiler.image.ProgramImage
    name : str
        A C identifier.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        When ``name`` is no identifier, or the tensors do not begin as zeros.
    """
    if not name.isascii() or not name.isidentifier():
        raise ValueError(f"{name!r} is no C identifier; give a name of letters, digits and _")
    config, content, line = image.config, image.memory.tobytes().rstrip(b"\0"), min(tensor.base for tensor in image.tensors)
    if image.memory[line:].any():
        raise ValueError("the program's tensors must begin as zeros: there is one set of them for each job in the queue")
    words = registers.config_words(config)
    lines = ["/* A program of the NeuroFlex accelerator; generated, do not edit. */", '#include "neuroflex.h"', ""]
    for what in ("input", "output"):
        positions = ", ".join(map(str, image.tensor(getattr(image, what)).positions))
        lines += [f"static const uint16_t {what}_positions[] = {{", *_wrapped(positions), "};"]
    lines += ["static const uint8_t content[] = {", *_wrapped(", ".join(map(str, content))), "};", "",
              f"const struct neuroflex_program {name} = {{",
              f'    .name = "{_c_text(str(image.about.get("name", name)))}", .config0 = 0x{words["config0"]:08X}u, .config1 = 0x{words["config1"]:08X}u, .config2 = 0x{words["config2"]:08X}u,',
              f"    .line_bytes = {config.line_bytes}, .first_descriptor = {image.descriptors[0]}, .tensor_line = {line}, .memory_bytes = {image.memory.nbytes},",
              "    .content_bytes = sizeof content, .content = content,"]
    for what in ("input", "output"):
        tensor = image.tensor(getattr(image, what))
        channels, height, width = tensor.shape
        lines.append(f"    .{what} = {{.base = {tensor.base}, .channels = {channels}, .height = {height}, .width = {width}, .chunks = {tensor.chunks}, "
                     f".levels = {tensor.levels}, .positions = {what}_positions}},")
    return "\n".join([*lines, "};", ""])


def _wrapped(text, width=140):
    """Lines of a list of numbers."""
    lines, start = [], 0
    while start < len(text):
        end = len(text) if len(text) - start <= width else text.rindex(",", start, start + width) + 1
        lines.append("    " + text[start:end].strip())
        start = end
    return lines


def _c_text(text):
    return "".join(c if c in string.ascii_letters + string.digits + " _-.+" else "?" for c in text)
