"""One key seals one Redis: a process that holds another does not start, and the doctor says why."""

from pathlib import Path
from typing import Any

import pytest

from driftwarden.errors import BadInput
from driftwarden.sealing import Seal, load_or_create_key
from driftwarden.service.state_key import check_seal, seal_opens

PREFIX = "driftwarden:"


def test_the_first_key_counts_and_another_is_refused(redis_server: Any) -> None:
    """Whoever comes later with the same key is let in, whoever has another is not, and changes nothing."""
    redis_server.flushall()
    ours, other = Seal(b"a" * 32), Seal(b"b" * 32)
    assert seal_opens(redis_server, PREFIX, ours) is None
    check_seal(redis_server, PREFIX, ours)
    check_seal(redis_server, PREFIX, ours)
    with pytest.raises(BadInput, match="another one than this Redis was sealed with"):
        check_seal(redis_server, PREFIX, other)
    assert (seal_opens(redis_server, PREFIX, ours), seal_opens(redis_server, PREFIX, other)) == (True, False)


def test_a_seal_binds_kind_name_and_content() -> None:
    """What was sealed under one name does not open under another, nor cut differently, nor under another key."""
    seal = Seal(b"a" * 32)
    sealed = seal.close("ledger", "inc-1", "ab c")
    assert seal.open("ledger", "inc-1", sealed) == "ab c"
    for kind, name, text in (
        ("track", "inc-1", sealed),
        ("ledger", "inc-2", sealed),
        ("ledger", "inc-1", sealed + " "),
        ("ledger", "inc-1", sealed[:-1]),
        ("ledger", "inc-1", ""),
        ("ledger", "inc-1", b"\xff" + sealed.encode()),
    ):
        assert seal.open(kind, name, text) is None
    assert seal.close("a", "bc", "x") != seal.close("ab", "c", "x")
    assert Seal(b"b" * 32).open("ledger", "inc-1", sealed) is None


def test_the_key_file_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """Mode 0600, the same key again; one that others can read, or that is no key, is refused in one line."""
    path = tmp_path / "keys" / "state.key"
    key = load_or_create_key(path)
    assert (len(key), load_or_create_key(path) == key, path.stat().st_mode & 0o777) == (32, True, 0o600)
    path.chmod(0o640)
    with pytest.raises(BadInput, match="0o600"):
        load_or_create_key(path)
    path.chmod(0o600)
    path.write_text("no key\n")
    with pytest.raises(BadInput, match="64 hex digits"):
        load_or_create_key(path)
