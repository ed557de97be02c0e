"""``neuroflex compare``"""
from pathlib import Path

import click

from neuroflex.commands.common import check_rows, comparison_options, display, emit, json_option, load_subject, seed_option, table

__all__ = ["command"]

STEPS = 10      # of one network


@click.command("compare")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...")
@click.option("--config", "config_name", default="paper", show_default=True, metavar="NAME|FILE",
              help="A preset (tiny, small, pynq_z2, paper) or a TOML file.")
@comparison_options
@click.option("--report", "report_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with pictures, one file that needs no network.")
@click.option("--trace", "trace_file", type=click.Path(dir_okay=False, path_type=Path),
              help="Write when each PE issued matches, as trace events that Perfetto opens.")
@seed_option
@json_option
def command(networks, config_name, rows, images, coefficients, latency, report_file, trace_file, seed, as_json):
    """Compare whole networks with every baseline: cycles, energy, energy-delay product, utilisation.

    NETWORK is a shape with synthetic densities (vgg16, vgg16_sparse, resnet34, googlenet, bert_base, vit_small, peer_2, peer_10, peer_50, peer_100,
    loas_vgg16_drawn, loas_alexnet_drawn; `neuroflex info NAME` shows one), one with recorded spikes (loas_vgg16, loas_alexnet: files in the folder that NEUROFLEX_DATA names), a
    trained network of the zoo, or a network file. What each figure means: docs/comparison.md.
    """
    networks = tuple(dict.fromkeys(networks))
    pictures = bool(report_file or trace_file)
    show = display(len(networks) * (STEPS + pictures) + bool(report_file) + bool(trace_file))
    from neuroflex.compare.measure import compare_network, subject_of
    from neuroflex.config import load_config
    config, found, timelines = load_config(config_name), {}, {}
    loaded = {name: load_subject(name) for name in networks}     # refuses what is none before anything starts
    check_rows(loaded.values(), rows)
    for name, which in loaded.items():
        subject = subject_of(which, seed=seed, rows=rows, images=images, show=show)
        comparison = compare_network(subject, config, seed=seed, coefficients=coefficients, latency=latency, show=show)
        found[name] = comparison.result
        if pictures:
            from neuroflex.compare.timelines import timelines_of

            with show.step(f"{name}: timelines of the processing elements"):
                timelines[name] = timelines_of(subject, config, comparison)
    files = []
    if report_file:
        from neuroflex.compare.page import write_page

        with show.step(f"draw {report_file}"):
            files.append(write_page(found, config, timelines, report_file))
    if trace_file:
        from neuroflex.compare.timelines import write_trace

        with show.step(f"write {trace_file}"):
            files.append(write_trace(timelines, trace_file))
    emit(as_json, {"configuration": config.name, "seed": seed, "coefficients": coefficients, "networks": found},
         *(item for result in found.values() for item in _tables(result)), *(f"written: {path}" for path in files))


def _number(value, pattern=".4g"):
    return "-" if value is None else format(value, pattern)


def _tables(result):
    """A table of the baselines and a line of the figures of one network."""
    hybrid = result["baselines"]["hybrid"]
    rows, notes = [], {}
    for name, one in result["baselines"].items():
        if one["how"] != hybrid["how"]:
            notes.setdefault(one["how"], []).append(name)
        ratios = (None if one[key] is None else one[key] / hybrid[key] for key in ("edp", "edp_running"))
        rows.append((name, _number(one["pes"], "d"), _number(one["cycles"], ",.0f"), _number(one["cycles_running"], ",.0f"),
                     _number(one["energy_pj"], ".3g"), *(_number(ratio, ".3f") for ratio in ratios)))
    yield table(f"{result['title']} on {result['configuration']}: {result['densities']}",
                ("", "PEs", "cycles", "running", "energy, pJ", "EDP", "EDP, running"), rows)
    yield "EDP: over hybrid's, with all cycles and with the running ones (loading left out). " + "".join(
        f"{', '.join(names)}: {how}. " for how, names in notes.items())
    for which, one in result["by_coefficients"].items():
        if which != result["coefficients"]:
            yield (f"The same schedules with {which}: hybrid {_number(one['energy_pj']['hybrid'], '.3g')} pJ; EDP over hybrid's, all cycles and running, "
                   + ", ".join(f"{name} {' / '.join(_number(value and value / one[key]['hybrid'], '.3f') for key, value in (('edp', one['edp'][name]), ('edp_running', one['edp_running'][name])))}"
                               for name in result["edp"] if name != "hybrid") + ".")
    accuracy = result["accuracy"]
    known = ", ".join(f"{name} {100 * value:.2f} %" for name, value in accuracy.items() if value is not None)
    sampled = "" if result["sampled"] == 1 else f" Layers were cut to {100 * result['sampled']:.1f} % of their rows at least, and scaled."
    yield (f"throughput against random {result['throughput_vs_random']:.2f}x (running {result['throughput_vs_random_running']:.2f}x), against columns dealt evenly "
           f"{result['throughput_vs_dealt']:.2f}x (running {result['throughput_vs_dealt_running']:.2f}x); utilisation {result['utilisation']:.3f}"
           + (f"; accuracy: {known}" if known else "")
           + f"; energies: {result['coefficients']}; left to the host: {100 * result['host_share']:.2g} % of the operations.{sampled}"
           + ("" if result["hybrid_schedule"] == "hybrid" else f" On the cycle model {result['hybrid_schedule']} is better than the predicted split, and is taken."))
