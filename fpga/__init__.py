"""Accelerators on boards and in simulation, behind one driver: docs/boards.md."""
from neuroflex.fpga.device import BusError, Device, DeviceError, JobError, LinkError, TimedOut, WrongDevice
from neuroflex.fpga.driver import Accelerator, JobReport

__all__ = ["Accelerator", "BACK_ENDS", "BusError", "Device", "DeviceError", "JobError", "JobReport", "LinkError", "TimedOut", "WrongDevice", "open"]

BACK_ENDS = ("sim", "uart", "pynq")


def open(back_end, *, timeout=60.0, **options):  # noqa: A001 - reads as fpga.open
    """Open an accelerator.

    Parameters
    ----------
    back_end : str
        ``"sim"``: the Verilated RTL, `neuroflex.fpga.simulated.SimulatedDevice`, or, with ``shell``, `neuroflex.fpga.simulated.SimulatedShell`; ``"uart"``: a board on a serial port,
        `neuroflex.fpga.serial_port.UartDevice`; ``"pynq"``: on a Zynq board itself, `neuroflex.fpga.pynq_device.PynqDevice`.
    timeout : float
        Seconds that a job may take.
    **options
        Of the back end; ``config`` (a preset, a TOML file or an `ArchConfig`, ``"tiny"`` by default) and ``shell`` (None, ``"axi"`` or an `AxiConfig`) for ``"sim"``, ``port`` for ``"uart"``, ``overlay`` for ``"pynq"``.

    Returns
    -------
    Accelerator
    """
    if back_end == "sim":
        device = _simulated(**options)
    elif back_end == "uart":
        from neuroflex.fpga.serial_port import UartDevice

        device = UartDevice(**options)
    elif back_end == "pynq":
        from neuroflex.fpga.pynq_device import PynqDevice

        device = PynqDevice(**options)
    else:
        raise ValueError(f"no back end {back_end!r}; there are {', '.join(BACK_ENDS)}")
    try:
        return Accelerator(device, timeout=timeout)
    except BaseException:
        device.close()
        raise


def _simulated(*, config="tiny", shell=None, **options):
    from neuroflex.axi import AxiConfig
    from neuroflex.config import ArchConfig, load_config
    from neuroflex.fpga.simulated import SimulatedDevice, SimulatedShell

    config = config if isinstance(config, ArchConfig) else load_config(config)
    if shell is None:
        return SimulatedDevice(config, **options)
    if shell != "axi" and not isinstance(shell, AxiConfig):
        raise ValueError(f"shell must be None, \"axi\" or an AxiConfig, not {shell!r}")
    return SimulatedShell(config, AxiConfig() if shell == "axi" else shell, **options)
