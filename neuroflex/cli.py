"""The command ``neuroflex``.

Exit codes: 0 all is well, 1 a check failed or results differ, 2 the call or its input is wrong.
"""
import importlib
import json
import sys

import click

__all__ = ["main"]

_COMMANDS = {
    "demo": "From a trained network to a verified accelerator, with a report.",
    "import": "Import an ONNX, NIR or PyTorch network as an integer network.",
    "train": "Train a network for integers: ReLU, pruning, QCFS.",
    "compile": "Compile a network to a program image.",
    "generate": "Write an accelerator's Verilog, register map and file list.",
    "embed": "Write a program image as C source for the C driver.",
    "simulate": "Run a network on the golden model or on the RTL.",
    "verify": "Compare RTL and golden model in every cycle.",
    "bench": "Measure a synthetic sparse layer on RTL and golden model.",
    "compare": "Compare whole networks with every baseline.",
    "sweep": "Compare many networks, configurations and seeds in parallel.",
    "build": "Build for a board: a bitstream, or an archive for Vivado and PYNQ.",
    "flash": "Load a bitstream into a connected board.",
    "info": "Show a configuration, a network, a shape, a program image, or what there is.",
}


class _Commands(click.Group):
    """Loads a command's module when the command is used, so that help is instant."""

    def list_commands(self, ctx):
        return list(_COMMANDS)

    def get_command(self, ctx, name):
        if name not in _COMMANDS:
            return None
        command = importlib.import_module(f"neuroflex.commands.{name}").command
        command.help = command.help or _COMMANDS[name]
        return command

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="neuroflex")
def cli():
    """Trained networks to verified sparse ANN-SNN accelerators.

    Begin with `neuroflex demo`; `neuroflex info` lists networks and configurations, `neuroflex COMMAND --help` a command's options, docs/cli.md says the rest.

    Every command takes --json. Exit codes: 0 fine, 1 a check failed, 2 wrong call or input, 130 stopped.
    """


def _input_errors():
    """Exceptions that say what is wrong with the user's input, in words for people."""
    from neuroflex.compiler.image import ImageError
    from neuroflex.compiler.lower import LoweringError
    from neuroflex.compiler.network import NetworkError
    from neuroflex.compiler.schedule import ScheduleError
    from neuroflex.config import ConfigError
    from neuroflex.data_folder import DataError
    from neuroflex.fpga.boards import DoesNotFit
    from neuroflex.generate import GenerateError

    return ConfigError, DataError, DoesNotFit, GenerateError, ImageError, LoweringError, NetworkError, ScheduleError, OSError


def _fail(arguments, message, code):
    print(f"neuroflex: {message}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps({"error": message}))
    return code


def main(arguments=None):
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return cli.main(args=arguments, prog_name="neuroflex", standalone_mode=False) or 0
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        return _fail(arguments, error.format_message() + hint, error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail(arguments, "stopped", 130)
    except Exception as error:
        # A package that an extra brings is missing, and the message says which: it has no module's name.
        absent = isinstance(error, ModuleNotFoundError) and error.name is None
        if absent or isinstance(error, _input_errors()):
            what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename and error.strerror else str(error)
            return _fail(arguments, what, 2)
        from neuroflex.eda import ToolError
        from neuroflex.sim.run import Deadlock
        from neuroflex.tb.accelerator import AcceleratorError

        if isinstance(error, (ToolError, Deadlock, AcceleratorError)):
            return _fail(arguments, str(error), 1)
        raise
