"""Vectors through a cocotb test: the second engine of `neuroflex.tb.bench`."""

import numpy as np
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from neuroflex.atomic import work_folder

from .simulator import TOP, build_cocotb, build_folder

__all__ = ["replay"]


def replay(name, verilog, stim, want, mask):
    """Run stimulus words through cocotb and compare the trace.

    Parameters
    ----------
    name : str
        What to call the build.
    verilog : str
        Text with the top module ``bench``.
    stim, want : ndarray of uint64, shape (cycles, words)
        Applied and expected vectors.
    mask : ndarray of uint64 or None
        Bits that count; all by default.

    Returns
    -------
    tuple of (int, ndarray) or None
        Cycle and trace words of the first difference.

    Raises
    ------
    RuntimeError
        If the cocotb test did not run, or failed by something else than a
        difference: a test that did not compare every cycle never passes.
    """
    executable = build_cocotb(name, verilog)
    with work_folder(build_folder(), "cocotb") as folder:
        np.savez(folder / "vectors.npz", stim=stim, want=want, mask=[] if mask is None else mask)
        runner = get_runner("verilator")
        try:
            runner.test(test_module="neuroflex.tb.cocotb_replay", hdl_toplevel=TOP, hdl_toplevel_lang="verilog",
                        build_dir=executable.parent,
                        test_dir=folder, results_xml=str(folder / "results.xml"), log_file=folder / "log.txt",
                        extra_env={"NEUROFLEX_REPLAY": str(folder)})
        except SystemExit:
            pass                                # the runner's way to fail; judged below
        log = (folder / "log.txt").read_text()[-3000:] if (folder / "log.txt").exists() else ""
        try:
            result = dict(np.load(folder / "result.npz"))
            tests, failed = get_results(folder / "results.xml")
        except (FileNotFoundError, RuntimeError):
            raise RuntimeError(f"the cocotb test of {name} did not run to its end:\n{log}") from None
        if result["difference"] and failed == 1:
            return int(result["compared"]), result["words"].astype(np.uint64)
        if tests != 1 or failed or result["compared"] != len(stim):
            raise RuntimeError(f"the cocotb test of {name} ended with {failed} failures of {tests}:\n{log}")
    return None
