"""Versions and aliases of a registered model, read from MLflow's own tables where those are at hand: a tenth of what it costs
to ask for them. Only what informs is read here: no alias moves by it.

MLflow's API makes an object of every row, and for the aliases of every version that there ever was. The tables are no API:
another MLflow than 3.17, another store, workspaces, tables of another form, or a row that is not there give None, and the
API is asked. What is read is what is committed, of the database that is written to: nothing is remembered.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Ask = Callable[[str, Mapping[str, Any]], Sequence[Any]]

_WORKSPACE = "default"
_KNOWN = "3.17."  # what the tables mean was read in this one; another may answer the same questions otherwise
_VERSIONS = """
SELECT version, creation_time, run_id FROM model_versions
WHERE workspace = :workspace AND name = :name AND current_stage <> 'Deleted_Internal' ORDER BY version DESC LIMIT :most
"""
_TAGS = """
SELECT version, key, value FROM model_version_tags WHERE workspace = :workspace AND name = :name AND version >= :lowest
"""
_BEHIND = """
SELECT a.version FROM registered_model_aliases a JOIN model_versions v
ON v.workspace = a.workspace AND v.name = a.name AND v.version = a.version AND v.current_stage <> 'Deleted_Internal'
WHERE a.workspace = :workspace AND a.name = :name AND a.alias = :alias
"""
_ALIASES = "SELECT alias, version FROM registered_model_aliases WHERE workspace = :workspace AND name = :name"


class VersionRow(NamedTuple):
    """What is used of a version, under MLflow's names for it (`creation_timestamp` in milliseconds)."""

    version: int
    creation_timestamp: int
    run_id: str | None
    tags: dict[str, str]


def read_versions(client: Any, name: str, most: int) -> tuple[list[VersionRow], dict[str, int]] | None:
    """The newest `most` versions, newest first, and all aliases (alias -> version); None where the API must be asked."""
    asked: dict[str, Any] = {"workspace": _WORKSPACE, "name": name}

    def read(ask: Ask) -> tuple[list[VersionRow], dict[str, int]]:
        found = ask(_VERSIONS, asked | {"most": most})
        tags: dict[int, dict[str, str]] = {version: {} for version, _, _ in found}
        for version, key, value in ask(_TAGS, asked | {"lowest": min(tags, default=0)}):
            tags.get(version, {})[key] = value
        rows = [VersionRow(version, created, run_id, tags[version]) for version, created, run_id in found]
        return rows, {alias: int(version) for alias, version in ask(_ALIASES, asked)}

    return _read(client, read)


def read_alias(client: Any, name: str, alias: str) -> int | None:
    """The version behind an alias; None where there is none, or where the API must be asked."""

    def read(ask: Ask) -> int | None:
        found = ask(_BEHIND, {"workspace": _WORKSPACE, "name": name, "alias": alias})
        return int(found[0][0]) if len(found) == 1 else None

    return _read(client, read)


def _read(client: Any, read: Callable[[Ask], Answer]) -> Answer | None:
    try:
        import sqlalchemy
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
        from mlflow.version import VERSION
    except ImportError:
        return None
    if not VERSION.startswith(_KNOWN):
        return None
    try:
        store = client._get_registry_client().store  # noqa: SLF001
        if type(store) is not SqlAlchemyStore or store.supports_workspaces:
            return None
        with store.engine.connect() as connection:
            return read(lambda query, values: connection.execute(_query(query), values).all())
    except (sqlalchemy.exc.SQLAlchemyError, AttributeError, TypeError, ValueError) as error:
        log.debug("MLflow's tables are not as expected, or away: %s", error)
        return None


@cache
def _query(text: str) -> Any:
    import sqlalchemy

    return sqlalchemy.text(text)
