"""``neuroflex compile``"""
from pathlib import Path

import click

from neuroflex.commands.common import config_option, display, emit, json_option, load_network, policy_option, seed_option, table

__all__ = ["command"]


@click.command("compile")
@click.argument("network")
@config_option
@policy_option
@seed_option
@click.option("-o", "--output", "path", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Program image (.nfx) to write.")
@json_option
def command(network, config_name, policy, seed, path, as_json):
    """Compile NETWORK, a name from the zoo, a network file (.npz) or a segment of one (FILE:SEGMENT), to a program image."""
    show = display(2)
    from neuroflex.config import load_config
    from neuroflex.flow import compile_network
    from neuroflex.formats import Core
    from neuroflex.program import program_image

    config = load_config(config_name)
    loaded = load_network(network)
    with show.step(f"schedule and lower {loaded.name} for {config.name}, {policy}"):
        job = compile_network(loaded, config, policy=policy, seed=seed)
    with show.step(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        program_image(job, policy=policy, seed=seed).save(path)
    tiles = [{"layer": tile.layer, "columns": len(tile.columns), "ann": int((tile.core == Core.ANN).sum()),
              "snn": int((tile.core == Core.SNN).sum()), "groups": 1 << tile.groups_log2, "load_lines": tile.settings["load_lines"]}
             for tile in job.tiles]
    result = {"image": path, "bytes": path.stat().st_size, "network": loaded.name, "configuration": config.name, "policy": policy,
              "seed": seed, "memory_lines": len(job.memory), "tiles": tiles}
    emit(as_json, result,
         table(f"{loaded.name} on {config.name}, {policy}", ("layer", "columns", "on ANN", "on SNN", "row groups", "lines to load"),
               (tile.values() for tile in tiles)),
         f"{path}: {path.stat().st_size:,} bytes, {len(job.memory):,} lines of memory")
