"""Which commands does `apex-sim` have, and how does it fail?

Nothing heavy is imported until a command runs, so that help and completion answer at once.
"""

from __future__ import annotations

import errno
from typing import Any

import click

from apex_sim import __version__
from apex_sim.cli.calibrate import calibrate_command
from apex_sim.cli.capacity import capacity_command
from apex_sim.cli.hardware import hardware_group
from apex_sim.cli.mix import mix_command
from apex_sim.cli.models import models_group
from apex_sim.cli.profile import profile_command
from apex_sim.cli.search import search_command
from apex_sim.cli.sensitivity import sensitivity_command
from apex_sim.cli.simulate import simulate_command
from apex_sim.cli.space import space_command
from apex_sim.cli.validate import validate_group
from apex_sim.cli.why import why_command
from apex_sim.cli.workloads import workloads_group
from apex_sim.errors import ApexError

_EPILOG = """\b
Examples:
  apex-sim search quickstart
  apex-sim search --model llama-3.1-8b --cluster 2xh100-sxm --workload chat
  apex-sim simulate quickstart --tp 4 --pp 1 --dp 2 --weight-dtype fp8
  apex-sim why quickstart --rate 22
  apex-sim capacity quickstart
  apex-sim hardware show h100-sxm

\b
Completion behind TAB (zsh_source and fish_source likewise):
  eval "$(_APEX_SIM_COMPLETE=bash_source apex-sim)"

\b
Exit codes: 0 answered; 1 no plan can run, or none keeps the SLOs;
2 input that cannot be used; 130 interrupted.
"""


class _Commands(click.Group):
    """A group that turns every error of the user's making into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ApexError as error:
            _end(ctx, f"Error: {error}", error.exit_code)
        except KeyboardInterrupt:
            _end(ctx, "\nInterrupted.", 130)
        except OSError as error:
            if error.errno == errno.EPIPE:  # click leaves silently
                raise
            _end(ctx, f"Error: {error.filename or 'output'}: {error.strerror}.", 2)


def _end(ctx: click.Context, message: str, exit_code: int) -> None:
    click.echo(message, err=True)
    ctx.exit(exit_code)


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="apex-sim")
def commands() -> None:
    """Choose how to serve a large language model, before renting a GPU.

    APEX-Sim simulates every parallel plan on your own traffic and ranks them.
    """


for _command in (
    search_command,
    simulate_command,
    why_command,
    capacity_command,
    mix_command,
    sensitivity_command,
    space_command,
    models_group,
    hardware_group,
    workloads_group,
    validate_group,
    calibrate_command,
    profile_command,
):
    commands.add_command(_command)


def main() -> None:
    """Run the command line of this process."""
    commands(prog_name="apex-sim")
