"""``neuroflex demo``"""
import time
from pathlib import Path

import click

from neuroflex.commands.common import CheckFailed, config_option, display, emit, json_option, load_network, seed_option, table

__all__ = ["command"]


STEPS = 7       # of `demonstrate`


@click.command("demo")
@click.option("--output", "-o", "folder", default="build/demo", show_default=True, type=click.Path(file_okay=False, path_type=Path),
              help="Folder for Verilog and report.")
@click.option("--images", type=click.IntRange(1), default=10, show_default=True, help="Test images to run on RTL and model.")
@click.option("--network", default="digits", show_default=True, metavar="NETWORK", help="Zoo name or network file (.npz).")
@config_option
@seed_option
@json_option
def command(folder, images, network, config_name, seed, as_json):
    """From a trained network to a verified accelerator: schedule, Verilog, simulation, comparison in every cycle, report."""
    started = time.monotonic()
    show = display(STEPS)
    from neuroflex.config import load_config
    from neuroflex.demonstration import demonstrate

    config, loaded = load_config(config_name), load_network(network)
    if loaded.examples is None or images > len(loaded.examples.test_images):
        held = 0 if loaded.examples is None else len(loaded.examples.test_images)
        raise click.UsageError(f"network {loaded.name!r} holds {held} test images, {images} were asked for")
    summary = demonstrate(loaded, config, folder, images=images, seed=seed, show=show)
    best = summary["edp"]["hybrid"]
    rows = [("accuracy in integers", f"{100 * summary['accuracy_integer']:.2f} %"), ("images on RTL and model", images),
            ("cycles, RTL", summary["rtl_cycles"]), ("cycles, model", summary["model_cycles"]),
            ("cycles that differ", summary["cycle_mismatches"]), ("values that differ", summary["value_mismatches"]),
            ("matches per ANN PE and cycle", summary["utilisation"]["ann"]), ("matches per SNN PE and cycle", summary["utilisation"]["snn"]),
            *((f"EDP, {name} against hybrid", f"{value / best:.2f}x") for name, value in summary["edp"].items() if name != "hybrid")]
    emit(as_json, summary, table(f"{summary['network']} on {summary['configuration']}", ("what", "value"), rows),
         f"{time.monotonic() - started:.0f} s. Open {folder / 'report.html'}; the Verilog is in {folder / 'verilog'}.")
    if summary["cycle_mismatches"] or summary["value_mismatches"]:
        raise CheckFailed("RTL and golden model differ: see the report, and `neuroflex verify` for the first difference")
