"""Simulated JTAG devices, chained behind a server of the Xilinx Virtual Cable protocol (its three commands: getinfo, settck, shift) on a port of this machine."""
import contextlib
import socket
import struct
import threading

__all__ = ["Tap", "served"]

# IEEE 1149.1: state → states after a clock with TMS 0 and with TMS 1.
STATES = {
    "reset": ("idle", "reset"), "idle": ("idle", "select dr"),
    "select dr": ("capture dr", "select ir"), "capture dr": ("shift dr", "exit1 dr"), "shift dr": ("shift dr", "exit1 dr"), "exit1 dr": ("pause dr", "update dr"),
    "pause dr": ("pause dr", "exit2 dr"), "exit2 dr": ("shift dr", "update dr"), "update dr": ("idle", "select dr"),
    "select ir": ("capture ir", "reset"), "capture ir": ("shift ir", "exit1 ir"), "shift ir": ("shift ir", "exit1 ir"), "exit1 ir": ("pause ir", "update ir"),
    "pause ir": ("pause ir", "exit2 ir"), "exit2 ir": ("shift ir", "update ir"), "update ir": ("idle", "select dr")}


class Tap:
    """A device.

    Parameters
    ----------
    idcode : int
    bits : int
        Of an instruction.
    idcode_instruction : int
    capture : callable
        ``capture(tap)``: what is loaded before an instruction is shifted in.
    registers : dict
        Instruction → ``callable(tap) -> (value, bits)``, what is loaded before data are shifted.

    Attributes
    ----------
    instructions : list of int
        All that came, in order.
    received : dict of int to bytearray
        Bits that were shifted in, one per byte, by instruction.
    """

    def __init__(self, idcode, bits, idcode_instruction, *, capture=lambda tap: 1, registers=None):
        self.bits, self.capture = bits, capture
        self.registers = {idcode_instruction: lambda tap: (idcode, 32), **(registers or {})}
        self.reset_instruction = self.instruction = idcode_instruction
        self.instructions, self.received = [], {}
        self.register, self.length = 0, 1

    def enter(self, state):
        """A clock ended in this state."""
        if state == "reset":
            self.instruction = self.reset_instruction
        elif state == "capture ir":
            self.register, self.length = self.capture(self), self.bits
        elif state == "update ir":
            self.instruction = self.register
            self.instructions.append(self.instruction)
        elif state == "capture dr":
            self.register, self.length = self.registers.get(self.instruction, lambda tap: (0, 1))(self)

    def shift(self, bit, data):
        """One bit in, one out."""
        out, self.register = self.register & 1, self.register >> 1 | bit << self.length - 1
        if data:
            self.received.setdefault(self.instruction, bytearray()).append(bit)
        return out


@contextlib.contextmanager
def served(*taps):
    """Serve a chain, the device nearest to TDI first; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        over = threading.Event()
        thread = threading.Thread(target=_serve, args=(server, taps, over))
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join()


def _serve(server, taps, over):
    state = "reset"
    while not over.is_set():
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        with connection, connection.makefile("rb") as stream:
            while command := stream.read(2):
                if command == b"ge":
                    stream.read(6)
                    connection.sendall(b"xvcServer_v1.0:2048\n")
                elif command == b"se":
                    stream.read(5)
                    connection.sendall(stream.read(4))
                else:
                    stream.read(4)
                    count, = struct.unpack("<I", stream.read(4))
                    size = (count + 7) // 8
                    modes, bits, out = stream.read(size), stream.read(size), bytearray(size)
                    for i in range(count):
                        bit = bits[i // 8] >> i % 8 & 1
                        if state in ("shift dr", "shift ir"):
                            for tap in taps:
                                bit = tap.shift(bit, state == "shift dr")
                            out[i // 8] |= bit << i % 8
                        state = STATES[state][modes[i // 8] >> i % 8 & 1]
                        for tap in taps:
                            tap.enter(state)
                    connection.sendall(out)
