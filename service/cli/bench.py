"""`driftwarden bench`: measurements, each against a named yardstick in the same run."""

from importlib import import_module
from typing import Any

import click

# Each benchmark is a command in a module of its own.
BENCHMARKS: dict[str, tuple[str, str]] = {
    "remediation": (
        "bench_remediation:remediation",
        "Replay a real stream through the service, beside fixed strategies.",
    ),
    "diagnosis": ("bench_diagnosis:diagnosis", "Inject faults of known cause into real windows."),
    "throughput": ("bench_throughput:throughput", "Events per second, against a bare XREADGROUP + XACK loop."),
    "policy": ("bench_decisions:policy", "Decisions per second with full trace, on one core."),
    "audit": ("bench_audit:audit", "Records made durable and verified per second."),
}


class _Lazy(click.Group):
    """Imports a benchmark when it is called, and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(BENCHMARKS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in BENCHMARKS:
            return None
        module, _, attribute = BENCHMARKS[name][0].partition(":")
        command: Any = getattr(import_module(f"driftwarden.service.cli.{module}"), attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in BENCHMARKS.items()])


@click.group(cls=_Lazy)
def bench() -> None:
    """Measure: remediation, diagnosis, throughput, policy, audit.

    \b
    Example:
      driftwarden bench policy --json
    """
