"""Serial bridge: frames from a host become accesses to registers and to local memory."""
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.crc import Algorithm
from amaranth.lib.wiring import In, Out

from neuroflex import link
from neuroflex.hdl.registers import register_request, register_response
from neuroflex.hdl.uart import FRAME_BITS, UartReceiver, UartTransmitter, check_divisor
from neuroflex.link import LinkStatus, Op

__all__ = ["UartBridge", "local_request", "local_response"]

HEAD_BYTES = 6      # op, count, address


def local_request():
    """Layout of an access to local memory by the host: byte ``address`` (lowest two bits ignored), ``write``, ``data``."""
    return data.StructLayout({"address": 32, "write": 1, "data": 32})


def local_response():
    """Layout of the answer: ``data`` (0 for writes) and ``error`` (no memory at this address)."""
    return data.StructLayout({"data": 32, "error": 1})


class UartBridge(wiring.Component):
    """Takes requests of ``neuroflex/link.py`` from a serial line, one at a time, carries them out and answers.

    Nothing is carried out before the checksum was found good. Whatever arrives between two requests and is not the first byte of one is dropped, also all
    that arrives while a request is carried out and answered. A request that stops in the middle is forgotten after ``GAP_BYTES`` byte times, so that garbage never blocks
    the line.

    Timing: a word takes four cycles plus those of the port it goes to. The bytes of an answer follow each other without a pause but one or two cycles.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, at least 4.

    Members
    -------
    rx, tx : lines, 8N1
    registers_request, registers_response : streams
        To :class:`~neuroflex.hdl.registers.RegisterFile`.
    memory_request, memory_response : streams
        To the host's side of :class:`~neuroflex.hdl.block_memory.BlockMemory`.
    """

    def __init__(self, *, divisor):
        self._divisor = check_divisor(divisor)
        super().__init__({
            "rx": In(1, init=1), "tx": Out(1, init=1),
            "registers_request": Out(stream.Signature(register_request())), "registers_response": In(stream.Signature(register_response())),
            "memory_request": Out(stream.Signature(local_request())), "memory_response": In(stream.Signature(local_response())),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(divisor=self._divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=self._divisor)
        m.submodules.checksum = checksum = Algorithm(
            crc_width=16, polynomial=link.CRC_POLYNOMIAL, initial_crc=link.CRC_INIT, reflect_input=False, reflect_output=False, xor_output=0)(8).create()
        m.submodules.buffer = buffer = memory.Memory(shape=32, depth=link.MAX_WORDS, init=[])
        store, fetch = buffer.write_port(), buffer.read_port()

        head = Signal(data.StructLayout({"op": 8, "count": 8, "address": 32}))
        flat = head.as_value()
        status, index, word = Signal(LinkStatus), Signal(3), Signal(32)
        place = Signal(range(link.MAX_WORDS + 1))
        silence = Signal(range(link.GAP_BYTES * FRAME_BITS * self._divisor))
        is_write, is_register = head.op[0], head.op[5]
        last_word = Signal()
        send, send_byte, covered = Signal(), Signal(8), Signal()
        fetched = Signal(32)    # the word to be written: out of the buffer in FETCH, for which its address is there a cycle before
        byte, arrived = receiver.data, receiver.valid

        m.d.comb += [
            receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx),
            store.addr.eq(place), store.data.eq(word), fetch.addr.eq(place), fetch.en.eq(1),
            last_word.eq(place + 1 == head.count),
            transmitter.i.valid.eq(send), transmitter.i.payload.eq(send_byte),
            self.registers_request.payload.eq(Cat(head.address[:8], is_write, fetched)),
            self.memory_request.payload.eq(Cat(head.address, is_write, fetched)),
        ]
        m.d.sync += fetched.eq(fetch.data)
        sent = Signal()
        m.d.comb += sent.eq(send & transmitter.i.ready)

        def listen():
            """A cycle of silence within a request."""
            m.d.sync += silence.eq(silence + 1)
            with m.If(silence == link.GAP_BYTES * FRAME_BITS * self._divisor - 1):
                m.next = "HUNT"

        def finish(reason):
            m.d.sync += [status.eq(reason), place.eq(0), index.eq(0), head.count.eq(0)]
            m.next = "REPLY"

        m.d.sync += silence.eq(0)
        with m.FSM() as fsm:
            with m.State("HUNT"):
                m.d.comb += checksum.start.eq(1)
                m.d.sync += [index.eq(0), place.eq(0)]
                with m.If(arrived & (byte == link.REQUEST)):
                    m.next = "HEAD"
            with m.State("HEAD"):
                with m.If(arrived):
                    m.d.sync += [flat.eq(Cat(flat[8:], byte)), index.eq(index + 1)]
                    with m.If(index == HEAD_BYTES - 1):
                        m.next = "CHECK"
                with m.Else():
                    listen()
            with m.State("CHECK"):
                m.d.sync += index.eq(0)
                known = Signal()
                with m.Switch(head.op):
                    with m.Case(*Op):
                        m.d.comb += known.eq(1)
                with m.If(~known):
                    finish(LinkStatus.BAD_OP)
                with m.Elif((head.count == 0) | (head.count > link.MAX_WORDS)):
                    finish(LinkStatus.BAD_COUNT)
                with m.Elif(head.address[:2] != 0):
                    finish(LinkStatus.BAD_ADDRESS)
                with m.Elif(is_write):
                    m.next = "PAYLOAD"
                with m.Else():
                    m.next = "CHECKSUM"
            with m.State("PAYLOAD"):
                with m.If(arrived):
                    m.d.sync += [word.eq(Cat(word[8:], byte)), index.eq(index + 1)]
                    with m.If(index == 3):
                        m.next = "STORE"
                with m.Else():
                    listen()
            with m.State("STORE"):
                m.d.comb += store.en.eq(1)
                m.d.sync += [place.eq(place + 1), index.eq(0)]
                m.next = "PAYLOAD"
                with m.If(last_word):
                    m.next = "CHECKSUM"
            with m.State("CHECKSUM"):
                m.d.sync += place.eq(0)
                with m.If(arrived):
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == 1):
                        m.next = "VERIFY"
                with m.Else():
                    listen()
            with m.State("VERIFY"):
                with m.If(checksum.crc == 0):
                    m.next = "FETCH"
                with m.Else():
                    finish(LinkStatus.BAD_CHECKSUM)
            with m.State("FETCH"):
                with m.If(is_register & (head.address[8:] != 0)):
                    finish(LinkStatus.REFUSED)
                with m.Else():
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += [self.registers_request.valid.eq(is_register), self.memory_request.valid.eq(~is_register)]
                with m.If(Mux(is_register, self.registers_request.ready, self.memory_request.ready)):
                    m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += [self.registers_response.ready.eq(is_register), self.memory_response.ready.eq(~is_register)]
                with m.If(Mux(is_register, self.registers_response.valid, self.memory_response.valid)):
                    m.d.sync += word.eq(Mux(is_register, self.registers_response.payload.data, self.memory_response.payload.data))
                    with m.If(Mux(is_register, self.registers_response.payload.error, self.memory_response.payload.error)):
                        finish(LinkStatus.REFUSED)
                    with m.Else():
                        m.next = "SAVE"
            with m.State("SAVE"):
                m.d.comb += [store.en.eq(~is_write), fetch.addr.eq(place + 1)]
                m.d.sync += [place.eq(place + 1), head.address.eq(head.address + 4)]
                m.next = "FETCH"
                with m.If(last_word):
                    m.d.sync += [status.eq(LinkStatus.OK), place.eq(0), index.eq(0)]
                    with m.If(is_write):
                        m.d.sync += head.count.eq(0)
                    m.next = "REPLY"
            with m.State("REPLY"):
                m.d.comb += [send.eq(1), send_byte.eq(link.ANSWER), checksum.start.eq(1)]
                with m.If(sent):
                    m.next = "STATUS"
            with m.State("STATUS"):
                m.d.comb += [send.eq(1), send_byte.eq(status), covered.eq(1)]
                with m.If(sent):
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.comb += [send.eq(1), send_byte.eq(head.count), covered.eq(1)]
                with m.If(sent):
                    m.next = "CRC_HIGH"
                    with m.If(head.count != 0):
                        m.next = "TAKE"
            with m.State("TAKE"):
                m.d.sync += word.eq(fetch.data)
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [send.eq(1), send_byte.eq(word[:8]), covered.eq(1)]
                with m.If(sent):
                    m.d.sync += [word.eq(word >> 8), index.eq(index + 1)]
                    with m.If(index == 3):
                        m.d.sync += [index.eq(0), place.eq(place + 1)]
                        m.next = "PAUSE"
                        with m.If(last_word):
                            m.next = "CRC_HIGH"
            with m.State("PAUSE"):
                m.next = "TAKE"
            with m.State("CRC_HIGH"):
                m.d.comb += [send.eq(1), send_byte.eq(checksum.crc[8:])]
                with m.If(sent):
                    m.next = "CRC_LOW"
            with m.State("CRC_LOW"):
                m.d.comb += [send.eq(1), send_byte.eq(checksum.crc[:8])]
                with m.If(sent):
                    m.next = "HUNT"

        hearing = Signal()
        m.d.comb += hearing.eq(fsm.ongoing("HEAD") | fsm.ongoing("PAYLOAD") | fsm.ongoing("CHECKSUM"))
        m.d.comb += [checksum.valid.eq(Mux(hearing, arrived, sent & covered)), checksum.data.eq(Mux(hearing, byte, send_byte))]
        return m
