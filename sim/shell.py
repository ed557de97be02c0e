"""The AXI shell: the models of its parts, wired as they are."""
from functools import lru_cache

from neuroflex.sim.accelerator import AcceleratorModel
from neuroflex.sim.axi_lite import AxiLiteModel
from neuroflex.sim.axi_master import AxiMasterModel
from neuroflex.sim.job_queue import JobQueueModel

__all__ = ["AxiShellModel"]

_PAGES = ("program_page", "tensor_page", "tensor_line")


@lru_cache(maxsize=256)
def _names(names, old, new):
    return [(name, new + name.removeprefix(old)) for name in names if name.startswith(old)]


def _renamed(values, old, new):
    """The entries whose name begins with ``old``, which becomes ``new``."""
    return {after: values[before] for before, after in _names(tuple(values), old, new)}


class AxiShellModel:
    """Shell and accelerator one cycle at a time; see :class:`~neuroflex.sim.axi_lite.AxiLiteModel` for the form.

    Every port is predicted in every cycle: both buses, the interrupt, and what is written to memory. Not followed: the watchdog.

    Parameters
    ----------
    axi : AxiConfig
    workloads : dict of int to neuroflex.sim.accelerator.Workload
        By the page of their tensors; all of one configuration.
    cycles : int
        The most that it will be stepped.
    """

    def __init__(self, axi, workloads, cycles):
        self._workloads = workloads
        self.core = AcceleratorModel(next(iter(workloads.values())), cycles)
        self.lite, self.queue, self.master = AxiLiteModel(), JobQueueModel(axi), AxiMasterModel(self.core.config, axi)

    def outputs(self):
        master = self.master.outputs()
        return {**_renamed(self.lite.outputs(), "bus__", "s_axi_"), **_renamed(master, "read__", "m_axi_"), **_renamed(master, "write__", "m_axi_"),
                "irq": self.queue.outputs()["irq"]}

    def step(self, inputs):
        lite, queue, core, master = (part.outputs() for part in (self.lite, self.queue, self.core, self.master))
        if self.core.starting:
            self.core.workload = self._workloads.get(queue["tensor_page"], self.core.workload)
        self.lite.step({**_renamed(inputs, "s_axi_", "bus__"), "request__ready": queue["host_request__ready"],
                        **_renamed(queue, "host_response__", "response__")})
        self.queue.step({**_renamed(lite, "request__", "host_request__"), "host_response__ready": lite["response__ready"],
                         "core_request__ready": core["registers_request__ready"], **_renamed(core, "registers_response__", "core_response__"),
                         "core_irq": core["irq"]})
        self.core.step({**master, **_renamed(queue, "core_request__", "registers_request__"), "registers_response__ready": queue["core_response__ready"]})
        self.master.step({**{name: queue[name] for name in _PAGES}, **{name: value for name, value in core.items() if name.startswith("memory__")},
                          **_renamed(inputs, "m_axi_r", "read__r"), **_renamed(inputs, "m_axi_ar", "read__ar"),
                          **_renamed(inputs, "m_axi_aw", "write__aw"), **_renamed(inputs, "m_axi_w", "write__w"), **_renamed(inputs, "m_axi_b", "write__b")})
