"""``neuroflex bench``"""
import click

from neuroflex.commands.common import POLICIES, CheckFailed, display, emit, figure, json_option, memory_options, memory_trace, seed_option, table

__all__ = ["command"]

_DENSITY = click.FloatRange(0, 1)


@click.command("bench")
@click.option("--rows", "-M", type=click.IntRange(1), default=64, show_default=True, help="M: rows, positions of the activations.")
@click.option("--inputs", "-K", type=click.IntRange(1), default=1152, show_default=True, help="K: inputs of a column.")
@click.option("--columns", "-N", type=click.IntRange(1), default=32, show_default=True, help="N: columns, outputs of a row.")
@click.option("--activation-density", type=_DENSITY, default=0.3, show_default=True, help="Share of nonzero activations.")
@click.option("--weight-density", type=_DENSITY, default=0.3, show_default=True, help="Share of nonzero weights.")
@click.option("--levels", type=click.IntRange(1, 127), default=4, show_default=True, help="Levels of inputs and outputs.")
@click.option("--kernel", type=click.IntRange(1, 7), default=1, show_default=True,
              help="Size of the square window: K = kernel^2 x channels; with 3, an activation is read nine times.")
@click.option("--config", "--preset", "config_name", default="tiny", show_default=True, metavar="NAME|FILE",
              help="A preset (tiny, small, pynq_z2, paper) or a TOML file.")
@click.option("--policy", "policies", type=click.Choice((*POLICIES, "all")), multiple=True, default=("hybrid",), show_default=True,
              help="How columns are split between the cores; repeat to compare several, or `all`.")
@click.option("--engine", type=click.Choice(("both", "model")), default="both", show_default=True,
              help="RTL and golden model, or the model alone (no Verilog is built).")
@seed_option
@memory_options
@json_option
def command(rows, inputs, columns, activation_density, weight_density, levels, kernel, config_name, policies, engine, seed, latency,
            memory_seed, as_json):
    """Measure a synthetic sparse layer of M x K by K x N: cycles, matches, utilisation, stalls by cause, on RTL and golden model.

    Exit code 1 when RTL and model differ.
    """
    policies, rtl = POLICIES if "all" in policies else tuple(dict.fromkeys(policies)), engine == "both"
    show = display(len(policies) * (3 + rtl))
    from neuroflex.config import load_config
    from neuroflex.measure import measure_layer
    from neuroflex.sim.energy import DEFAULT

    config = load_config(config_name)
    runs = [measure_layer(config, rows=rows, inputs=inputs, columns=columns, activation_density=activation_density,
                          weight_density=weight_density, levels=levels, kernel=kernel, seed=seed, policy=policy, rtl=rtl,
                          memory=memory_trace(latency, memory_seed), show=show) for policy in policies]
    emit(as_json, runs[0] if len(runs) == 1 else {"runs": runs}, _table(config, runs, rows, inputs, columns),
         f"use: matches per PE and cycle, over the run phase and over all cycles; energies: events × {DEFAULT}")
    for run in runs:
        if run["equal"] is False:
            raise CheckFailed(f"{run['policy']}: RTL and model differ")
        if run["model"]["status"] != "DONE":
            raise CheckFailed(f"{run['policy']}: the job ended with {run['model']['status']}")


def _table(config, runs, rows, inputs, columns):
    """One column for each policy, two where RTL and model differ."""
    sides = [(run, run[side], side) for run in runs
             for side in (("rtl", "model") if run["equal"] is False else ("rtl",) if run["rtl"] else ("model",))]
    lines = [("measured on", [side for _, _, side in sides]),
             ("RTL = model", ["-" if run["equal"] is None else "yes" if run["equal"] else "NO" for run, _, _ in sides]),
             ("cycles", [figures["cycles"] for _, figures, _ in sides])]
    lines += [(f"  {cause}", [figures["stalls"][cause] for _, figures, _ in sides]) for cause in sides[0][1]["stalls"]]
    for core in ("ann", "snn"):
        lines += [(f"matches, {core.upper()}", [figures["matches"][core] for _, figures, _ in sides]),
                  (f"{core.upper()} use, run", [figures["utilisation"][core] for _, figures, _ in sides]),
                  (f"{core.upper()} use, all", [figures["utilisation_all"][core] for _, figures, _ in sides])]
    lines += [("energy, pJ", [run["energy_pj"] for run, _, _ in sides]),
              ("EDP, pJ x cycles", [f"{run['edp']:.4g}" for run, _, _ in sides]),
              ("joins/s of the model", [round(run["model_joins_per_second"]) for run, _, _ in sides])]
    return table(f"{rows} x {inputs} x {columns} on {config.name}", ("", *(run["policy"] for run, _, _ in sides)),
                 ((name, *map(figure, values)) for name, values in lines))
