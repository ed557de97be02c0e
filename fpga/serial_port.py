"""The accelerator on a serial line: frames of ``neuroflex/link.py`` through a `UartBridge`."""
import struct
import time

from neuroflex import link
from neuroflex.fpga.device import BusError, Device, LinkError
from neuroflex.link import LinkStatus, Op

__all__ = ["UartDevice"]

_ATTEMPTS = 4


class UartDevice(Device):
    """A board on a serial port.

    Damaged requests are sent again: the bridge carries out nothing whose checksum is wrong. After silence or a damaged answer it is not known whether a request was
    carried out; reads and writes of memory are repeated, since twice is as good as once, writes of registers are not.

    Parameters
    ----------
    port : str or object
        Name of a serial port (``/dev/ttyUSB0``; needs the extra ``uart``), or an open one: anything with ``read(n)``, which returns fewer bytes after its timeout,
        ``write(bytes)``, ``reset_input_buffer()`` and ``close()``.
    baud : int
        Must be that of the bitstream.
    memory_bytes : int
        Size of the board's memory.
    clock_mhz : float, optional
        The board's clock; here for what a caller computes of cycles.
    quiet : float
        Seconds of silence after which the bridge has forgotten a broken request.
    """

    def __init__(self, port, *, baud=1_000_000, memory_bytes=131_072, clock_mhz=None, quiet=None):
        self.memory_bytes, self.clock_mhz = memory_bytes, clock_mhz
        self._quiet = 2 * link.GAP_BYTES * 10 / baud if quiet is None else quiet
        self._port = _open(port, baud) if isinstance(port, str) else port
        self._port.reset_input_buffer()

    def read_register(self, offset):
        return self._registers(Op.READ_REGISTERS, offset, count=1)[0]

    def write_register(self, offset, value):
        self._registers(Op.WRITE_REGISTERS, offset, words=(value & 0xFFFFFFFF,))

    def _registers(self, op, offset, **what):
        status, words = self._ask(op, offset, **what)
        if status == LinkStatus.REFUSED:
            raise BusError(f"there is no register at {offset:#x}")
        return words

    def read_memory(self, address, count):
        self._check_range(address, count)
        return b"".join(struct.pack(f"<{len(words)}I", *words) for words in (
            self._memory(Op.READ_MEMORY, start, count=min(link.MAX_WORDS, (address + count - start) // 4))
            for start in range(address, address + count, 4 * link.MAX_WORDS)))

    def write_memory(self, address, content):
        self._check_range(address, len(content))
        words = struct.unpack(f"<{len(content) // 4}I", content)
        for start in range(0, len(words), link.MAX_WORDS):
            self._memory(Op.WRITE_MEMORY, address + 4 * start, words=words[start:start + link.MAX_WORDS])

    def _memory(self, op, address, **what):
        status, words = self._ask(op, address, **what)
        if status == LinkStatus.REFUSED:
            raise BusError(f"the board has no memory at {address:#x} or shortly behind it; memory_bytes = {self.memory_bytes:#x} is more than it has")
        return words

    def wait_interrupt(self, timeout, *, queued=False):
        """Polls ``status.finished``: the line has no interrupt, and the system behind it no queue."""
        return self._poll_finished(timeout)

    def close(self):
        self._port.close()

    def _ask(self, op, address, count=None, words=()):
        """Status (OK or REFUSED) and words of the answer to a request."""
        frame = link.request_frame(op, address, count, words)
        for _ in range(_ATTEMPTS):
            try:
                self._port.write(frame)
                answer = self._answer()
            except OSError as error:        # pyserial's are
                raise LinkError(f"the serial port went away: {error}") from error
            if answer is not None:
                status, found = answer
                if status == LinkStatus.REFUSED or (status == LinkStatus.OK and len(found) == (count or 0)):
                    return status, found
            elif op == Op.WRITE_REGISTERS:
                raise LinkError(f"no good answer to the write of register {address:#x}; it may have been carried out or not")
            # Whatever still comes belongs to something else.
            time.sleep(self._quiet)
            self._port.reset_input_buffer()
        raise LinkError(f"no good answer in {_ATTEMPTS} attempts: " + (
            "nothing came; is it the right port, is the board programmed?" if answer is None else f"the last one said {status.name}"))

    def _answer(self):
        """``(status, words)``, or None when there was none, or a damaged one."""
        while True:
            first = self._port.read(1)
            if not first:
                return None
            if first[0] == link.ANSWER:
                break
        head = self._port.read(2)
        if len(head) < 2 or head[0] > max(LinkStatus) or head[1] > link.MAX_WORDS:
            return None
        rest = self._port.read(4 * head[1] + 2)
        if len(rest) < 4 * head[1] + 2 or link.crc(head + rest[:-2]) != struct.unpack(">H", rest[-2:])[0]:
            return None
        return LinkStatus(head[0]), struct.unpack(f"<{head[1]}I", rest[:-2])


def _open(port, baud):
    try:
        import serial
    except ModuleNotFoundError:
        raise ModuleNotFoundError("serial ports need pyserial: pip install 'neuroflex[uart]'") from None
    try:
        return serial.Serial(port, baud, timeout=1.0)
    except serial.SerialException as error:
        raise LinkError(f"{port}: {error}; `python -m serial.tools.list_ports` shows the ports there are") from None
