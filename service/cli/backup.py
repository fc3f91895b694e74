"""`driftwarden backup` and `driftwarden restore`: the state folder copied while the service runs, and put back."""

from pathlib import Path

import click

from driftwarden.service.cli.common import json_option, note, print_json


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@json_option
def backup(folder: Path, as_json: bool) -> None:
    """Copy the state to FOLDER (new or empty) while the service runs: Redis, then the registry, the audit log last.

    A Redis, a registry or an audit log that is configured elsewhere is not copied: back it up by its own means, in the
    same order. The copy holds the keys of the log and of the state: keep it as you keep them.

    \b
    Example:
      driftwarden backup /backups/driftwarden-2026-11-21
    """
    from driftwarden.clock import SystemClock
    from driftwarden.service.backup import back_up
    from driftwarden.service.bootstrap import open_redis, read_settings

    settings = read_settings()
    if settings.redis.url is not None:
        manifest = back_up(settings, None, folder, SystemClock(), note)
    else:
        with open_redis(settings) as client:
            manifest = back_up(settings, client, folder, SystemClock(), note)
    if as_json:
        print_json(manifest)
        return
    note(f"{len(manifest['files'])} files in {folder}")
    for part in ("redis", "registry", "audit"):
        if manifest[part] == "elsewhere":
            note(f"{part} is elsewhere and was not copied: back it up by its own means (docs/operations.md)")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def restore(folder: Path, as_json: bool) -> None:
    """Put a backup of FOLDER into the state folder, which must be empty; every file is checked first.

    Then: `driftwarden audit verify`, `driftwarden doctor`, and `driftwarden serve`. What was done after the backup is in
    no copy; what the audit log knows of it is not done again.

    \b
    Example:
      DRIFTWARDEN_HOME=/srv/driftwarden driftwarden restore /backups/driftwarden-2026-11-21
    """
    from driftwarden.service.backup import restore as put_back
    from driftwarden.service.bootstrap import read_settings

    settings = read_settings()
    manifest = put_back(settings, folder, note)
    if as_json:
        print_json(manifest)
        return
    note(f"{len(manifest['files'])} files of {manifest['at']} are in {settings.home}")
    note("next: driftwarden audit verify; driftwarden doctor; driftwarden serve")
