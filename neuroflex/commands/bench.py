"""``neuroflex bench``"""
import click

from neuroflex.commands.common import (POLICIES, CheckFailed, emit, errors, json_option, memory_options, memory_trace, seed_option, table)

__all__ = ["command"]

_DENSITY = click.FloatRange(0, 1)


@click.command("bench")
@click.option("--rows", "-M", type=click.IntRange(1), default=64, show_default=True, help="M: rows, positions of the activations.")
@click.option("--inputs", "-K", type=click.IntRange(1), default=1152, show_default=True, help="K: inputs of a column.")
@click.option("--columns", "-N", type=click.IntRange(1), default=32, show_default=True, help="N: columns, outputs of a row.")
@click.option("--activation-density", type=_DENSITY, default=0.3, show_default=True, help="Share of nonzero activations.")
@click.option("--weight-density", type=_DENSITY, default=0.3, show_default=True, help="Share of nonzero weights.")
@click.option("--levels", type=click.IntRange(1, 127), default=4, show_default=True, help="Levels of inputs and outputs.")
@click.option("--config", "--preset", "config_name", default="tiny", show_default=True, metavar="NAME|FILE",
              help="A preset (tiny, small, pynq_z2, paper) or a TOML file.")
@click.option("--policy", "policies", type=click.Choice((*POLICIES, "all")), multiple=True, default=("hybrid",), show_default=True,
              help="How columns are split between the cores; repeat to compare several, or `all`.")
@click.option("--engine", type=click.Choice(("both", "model")), default="both", show_default=True,
              help="RTL and golden model, or the model alone (no Verilog is built).")
@seed_option
@memory_options
@json_option
def command(rows, inputs, columns, activation_density, weight_density, levels, config_name, policies, engine, seed, latency, memory_seed,
            as_json):
    """Measure a synthetic sparse layer of M x K by K x N: cycles, matches, utilisation, stalls by cause, on RTL and model.

    Exit code 1 when RTL and model differ.
    """
    from neuroflex.config import load_config
    from neuroflex.measure import measure_layer

    config = load_config(config_name)
    policies = POLICIES if "all" in policies else tuple(dict.fromkeys(policies))
    runs = []
    for policy in policies:
        with errors.status(f"{policy} on {config.name}"):
            runs.append(measure_layer(config, rows=rows, inputs=inputs, columns=columns, activation_density=activation_density,
                                      weight_density=weight_density, levels=levels, seed=seed, policy=policy, rtl=engine == "both",
                                      memory=memory_trace(latency, memory_seed)))
    sides = [(run["policy"], side, run[side]) for run in runs for side in ("rtl", "model") if run[side]]
    emit(as_json, runs[0] if len(runs) == 1 else {"runs": runs},
         table(f"{rows} x {inputs} x {columns}, densities {activation_density} x {weight_density}, on {config.name}",
               ("policy", "side", "cycles", "ANN matches", "SNN matches", "ANN use", "SNN use", "ANN use, all", "SNN use, all"),
               ((policy, side, f["cycles"], *f["matches"].values(), *f["utilisation"].values(), *f["utilisation_all"].values())
                for policy, side, f in sides)),
         table("Cycles by cause", ("policy", "side", *sides[0][2]["stalls"]), ((p, side, *f["stalls"].values()) for p, side, f in sides)),
         table("Model and policies", ("policy", "RTL = model", "joins/s of the model", "EDP (coefficients assumed), pJ x cycles"),
               ((run["policy"], "-" if run["equal"] is None else "yes" if run["equal"] else "NO", run["model_joins_per_second"], run["edp"])
                for run in runs)))
    for run in runs:
        if run["equal"] is False:
            raise CheckFailed(f"{run['policy']}: RTL and model differ")
        if run["model"]["status"] != "DONE":
            raise CheckFailed(f"{run['policy']}: the job ended with {run['model']['status']}")
