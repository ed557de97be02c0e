"""The system of a board without a processor: the models of accelerator, local memory and bridge, wired as they are."""
import numpy as np

from neuroflex.sim.accelerator import AcceleratorModel
from neuroflex.sim.block_memory import BlockMemoryModel
from neuroflex.sim.uart import hear
from neuroflex.sim.uart_bridge import BridgeModel

__all__ = ["UartSystemModel"]


class UartSystemModel:
    """What the system answers to a whole line from the host. Not followed: the watchdog.

    Parameters
    ----------
    workload : neuroflex.sim.accelerator.Workload
        Of the jobs that the host starts.
    depth, divisor : int
        As for the circuit.
    line : uint8[cycles]
        What the host sends.
    """

    def __init__(self, workload, depth, divisor, line):
        self._cycles, self._config = len(line), workload.job.config
        self.bridge = BridgeModel(hear(line, divisor), divisor)
        self.memory, self.core = BlockMemoryModel(self._config.chunk_bits, depth), AcceleratorModel(workload, len(line))

    def run(self):
        """The ports ``tx`` and ``irq``, uint8[cycles] by name."""
        irq, program = np.zeros(self._cycles, np.uint8), self.bridge.run()
        shown = next(program)
        for cycle in range(self._cycles):
            core = self.core.outputs()
            irq[cycle] = core["irq"]
            shown = program.send(self._step(core, *(shown or (None,))))
        return {"tx": self.bridge.line(self._cycles), "irq": irq}

    def _step(self, core, port, *request):
        """One cycle of accelerator and memory; what the bridge's port says to what it shows."""
        memory, bits = self.memory.outputs(), self._config.address_bits
        listens = request == ("answer",)
        asks, takes = ({name: port == name and listens == flag for name in ("registers", "memory")} for flag in (False, True))
        wanted = core["memory__request__payload"]
        self.memory.step(
            request=(wanted & (1 << bits) - 1, wanted >> bits & 255, wanted >> (bits + 8)) if core["memory__request__valid"] else None,
            line=core["memory__write_data__payload"] if core["memory__write_data__valid"] else None, read_ready=core["memory__read_data__ready"],
            done_ready=1, host=tuple(request) if asks["memory"] else None, host_ready=takes["memory"])
        address, write, data = request if asks["registers"] else (0, 0, 0)
        self.core.step({
            "memory__request__ready": memory["memory__request__ready"], "memory__write_data__ready": memory["memory__write_data__ready"],
            "memory__read_data__valid": memory["memory__read_data__valid"],
            "memory__read_data__payload": memory["line"] | memory["error"] << self._config.chunk_bits,
            "memory__write_done__valid": memory["memory__write_done__valid"], "memory__write_done__payload": memory["memory__write_done__payload"],
            "registers_request__valid": int(asks["registers"]), "registers_request__payload": address | write << 8 | data << 9,
            "registers_response__ready": int(takes["registers"])})
        if port is None:
            return None
        prefix, values = ("registers_", core) if port == "registers" else ("host_", memory)
        if not listens:
            return values[f"{prefix}request__ready"]
        payload = values[f"{prefix}response__payload"]
        return (payload & 0xFFFFFFFF, payload >> 32) if values[f"{prefix}response__valid"] else None
