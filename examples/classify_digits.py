"""Handwritten digits through the driver: on the simulated accelerator, or on a board.

``.venv/bin/python examples/classify_digits.py`` runs on the Verilated RTL, which is built the first time (about a minute). On a Zynq board, in the folder of the
unpacked archive: ``sudo -E python3 classify_digits.py --back-end pynq``.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

if (Path(__file__).parent / "python").is_dir():         # the board's archive brings its own driver
    sys.path.insert(0, str(Path(__file__).parent / "python"))

from neuroflex import fpga
from neuroflex.compiler.image import ProgramImage

SHADES = " .:-=+*#%@"


def program_for(back_end, path):
    """The program image: a file, or the digits network compiled for the simulated accelerator."""
    beside = Path(__file__).with_name("program.nfx")
    if path or beside.is_file():
        return ProgramImage.load(path or beside)
    if back_end != "sim":
        raise SystemExit("give a program compiled for the board's configuration: --program FILE (neuroflex compile digits --config ... -o FILE)")
    from neuroflex import flow, zoo
    from neuroflex.config import PRESETS
    from neuroflex.program import program_image

    return program_image(flow.compile_network(zoo.load("digits"), PRESETS["tiny"]), policy="hybrid", seed=0)


def examples_of(image, count):
    """Test images and their labels, which the program image carries with its network."""
    examples = image.network().examples
    return examples.test_images[:count], examples.test_labels[:count]


def as_text(picture):
    """A picture (H, W) in characters."""
    steps = np.round(picture / max(picture.max(), 1) * (len(SHADES) - 1)).astype(int)
    return "\n".join("".join(SHADES[step] * 2 for step in row) for row in steps)


def as_svg(picture, scale=16):
    """A picture (H, W) as SVG, for notebooks."""
    shades = np.round(255 * (1 - picture / max(picture.max(), 1))).astype(int)
    height, width = shades.shape
    squares = "".join(f'<rect x="{x * scale}" y="{y * scale}" width="{scale}" height="{scale}" fill="rgb({s},{s},{s})"/>'
                      for y, row in enumerate(shades) for x, s in enumerate(row))
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * scale}" height="{height * scale}">{squares}</svg>'


def frames_per_second(cycles, clock_mhz):
    """Images per second when the accelerator does nothing else: from counted cycles, not from a clock on the wall."""
    return clock_mhz * 1e6 / cycles


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--back-end", choices=("sim", "pynq"), default="sim")
    parser.add_argument("--program", type=Path, help="a program image; by default that of the archive, or the digits network")
    parser.add_argument("--overlay", default="neuroflex.bit", help="the bitstream, for pynq")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--clock", type=float, default=100.0, help="MHz of the board, where the accelerator is simulated")
    options = parser.parse_args(arguments)
    image = program_for(options.back_end, options.program)
    images, labels = examples_of(image, options.images)
    where = {"overlay": options.overlay} if options.back_end == "pynq" else {"config": image.config}
    with fpga.open(options.back_end, **where) as accelerator:
        accelerator.load(image)
        answers = accelerator(images).reshape(len(images), -1).argmax(axis=1)
        reports, clock = accelerator.reports, accelerator.device.clock_mhz or options.clock
    for picture, answer, label, report in zip(images, answers, labels, reports):
        print(as_text(picture[0]))
        print(f"a {label}; the accelerator says {answer}, after {report.cycles} cycles\n")
    cycles = np.mean([report.cycles for report in reports])
    print(f"{(answers == labels).sum()} of {len(labels)} right; {cycles:.0f} cycles per image, which at {clock:g} MHz is "
          f"{frames_per_second(cycles, clock):.0f} images per second (computed from cycles, not measured on a board)")


if __name__ == "__main__":
    main()
