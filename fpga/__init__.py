"""Accelerators on boards and in simulation, behind one driver: docs/boards.md."""
import inspect

from neuroflex.fpga.device import BusError, Device, DeviceError, JobError, LinkError, TimedOut, WrongDevice
from neuroflex.fpga.driver import Accelerator, JobReport

__all__ = ["Accelerator", "BACK_ENDS", "BusError", "Device", "DeviceError", "JobError", "JobReport", "LinkError", "TimedOut", "WrongDevice", "open"]

BACK_ENDS = ("sim", "uart", "pynq")
_EXAMPLES = {"sim": 'fpga.open("sim")', "uart": 'fpga.open("uart", port="/dev/ttyUSB0")', "pynq": 'fpga.open("pynq", overlay="neuroflex.bit")'}


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
        Of the back end. ``"sim"``: ``config`` (a preset, a TOML file or an `ArchConfig`, ``"tiny"`` by default), ``shell`` (None, ``"axi"`` or an `AxiConfig`) and ``show``
        (`neuroflex.progress.Display` or ``Silent()``: who is told when the simulator has to be built; on standard error by default). ``"uart"``: ``port``, which is needed.
        ``"pynq"``: ``overlay``.

    Returns
    -------
    Accelerator

    Raises
    ------
    ValueError
        For a back end or an option that there is not, or without one that is needed.
    ModuleNotFoundError
        When a package is missing that the back end stands on.
    DeviceError
        When no accelerator answers.
    """
    if back_end == "sim":
        device = _simulated(**_checked(back_end, options, _simulated, *_simulators(options.get("shell"))))
    elif back_end == "uart":
        from neuroflex.fpga.serial_port import UartDevice

        device = UartDevice(**_checked(back_end, options, UartDevice))
    elif back_end == "pynq":
        from neuroflex.fpga.pynq_device import PynqDevice

        device = PynqDevice(**_checked(back_end, options, PynqDevice))
    else:
        raise ValueError(f"no back end {back_end!r}; there are {', '.join(BACK_ENDS)}, as in {_EXAMPLES['uart']}")
    try:
        return Accelerator(device, timeout=timeout)
    except BaseException:
        device.close()
        raise


def _checked(back_end, options, *makers):
    """The options, refused when the makers of a back end know one not, or need another."""
    known = {}
    for maker in makers:
        for name, one in inspect.signature(maker).parameters.items():
            if one.kind is not one.VAR_KEYWORD:
                known.setdefault(name, one)
    known.pop("axi", None)      # of the simulated system: `shell` here
    strange = [name for name in options if name not in known]
    missing = [name for name, one in known.items() if one.default is one.empty and options.get(name) is None]
    if strange:
        raise ValueError(f"the back end {back_end!r} has no option {strange[0]!r}; it has {', '.join(known)}, as in {_EXAMPLES[back_end]}")
    if missing:
        raise ValueError(f"the back end {back_end!r} needs the option {missing[0]!r}, as in {_EXAMPLES[back_end]}")
    return options


def _simulators(shell):
    """What takes the options of a simulated device."""
    from neuroflex.fpga.simulated import SimulatedDevice, SimulatedShell

    if shell is None:
        return (SimulatedDevice,)
    from neuroflex.tb.axi_system import AxiSystem

    return SimulatedShell, AxiSystem


def _simulated(*, config="tiny", shell=None, show=None, **options):
    from neuroflex.axi import AxiConfig
    from neuroflex.config import ArchConfig, load_config
    from neuroflex.fpga.simulated import SimulatedDevice, SimulatedShell
    from neuroflex.progress import Display
    from neuroflex.tb.simulator import telling

    config = config if isinstance(config, ArchConfig) else load_config(config)
    if shell not in (None, "axi") and not isinstance(shell, AxiConfig):
        raise ValueError(f"shell must be None, \"axi\" or an AxiConfig, not {shell!r}")
    what = f"build the simulator of {config.name}" + (" behind its AXI shell (minutes" if shell else " (a minute or more") + " the first time, then kept)"
    with telling(show or Display(), what):
        if shell is None:
            return SimulatedDevice(config, **options)
        return SimulatedShell(config, AxiConfig() if shell == "axi" else shell, **options)
