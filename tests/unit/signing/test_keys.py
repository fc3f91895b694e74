"""Private keys: made for their owner alone, read in OpenSSH's form, never opened where they are a stranger's."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from driftwarden.errors import BadInput
from driftwarden.service.signing.keys import check_name, create_key, find_private, key_path, read_key_file, read_private
from driftwarden.service.signing.sshsig import public_of


def write(path: Path, key: object, passphrase: bytes | None = None, mode: int = 0o600) -> Path:
    """A private key in a file."""
    how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, how))  # type: ignore[attr-defined]
    path.chmod(mode)
    return path


def test_a_new_key_is_its_owner_s_alone(tmp_path: Path) -> None:
    """Mode 0600, the public half beside it; one that is there is not overwritten."""
    path = key_path(tmp_path / "keys", "ada")
    key = create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_of(read_private(path)) == public_of(key)
    assert read_key_file(path.with_name("approver-ada.pub")) == (public_of(key), False)
    assert read_key_file(path) == (public_of(key), True)
    with pytest.raises(BadInput, match="a file that is there"):
        create_key(path)
    assert public_of(read_private(path)) == public_of(key)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """It may be anyone's by now."""
    path = write(tmp_path / "k", Ed25519PrivateKey.generate(), mode=0o640)
    with pytest.raises(BadInput, match="0o640"):
        read_private(path)


def test_a_passphrase_is_asked_for_or_the_key_is_refused(tmp_path: Path) -> None:
    """In one line where there is no terminal, or where the passphrase is wrong."""
    key = Ed25519PrivateKey.generate()
    path = write(tmp_path / "k", key, b"open sesame")
    assert public_of(read_private(path, lambda _: "open sesame")) == public_of(key)
    for ask in (None, lambda _: None, lambda _: "wrong"):
        with pytest.raises(BadInput, match="private key"):
            read_private(path, ask)


def test_what_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    """Another kind of key, another text, no file."""
    with pytest.raises(BadInput, match="another kind of key"):
        read_private(write(tmp_path / "ec", generate_private_key(SECP256R1())))
    (tmp_path / "text").write_text("hello\nworld\n")
    (tmp_path / "text").chmod(0o600)
    for name in ("text", "absent"):
        with pytest.raises(BadInput, match=name):
            read_private(tmp_path / name)
        with pytest.raises(BadInput, match=name):
            read_key_file(tmp_path / name)


def test_only_a_key_that_is_wanted_is_found(tmp_path: Path) -> None:
    """A stranger's encrypted key is not even opened; where none fits, the places are named."""
    mine, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    stranger = write(tmp_path / "stranger", other, b"secret")
    stranger.with_name("stranger.pub").write_text(public_of(other).line)
    found = write(tmp_path / "mine", mine)

    def never(path: Path) -> str | None:
        raise AssertionError(f"asked for the passphrase of {path}")

    wanted = frozenset({public_of(mine)})
    assert public_of(find_private((tmp_path / "absent", stranger, found), wanted, never)) == public_of(mine)
    with pytest.raises(BadInput, match="stranger"):
        find_private((stranger,), wanted, never)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "a b", "x" * 65, "é"])
def test_names_are_names(name: str) -> None:
    """They stand in file names."""
    with pytest.raises(BadInput, match="approver's name"):
        check_name(name)


def test_a_folder_of_somebody_else_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, somebody: Callable[[], AbstractContextManager[None]]
) -> None:
    """Given the state folder of a service that the approver may not look into, their own key is found all the same."""
    monkeypatch.chdir(tmp_path)
    key = Ed25519PrivateKey.generate()
    own = write(Path("own"), key)
    tmp_path.chmod(0o755)
    Path("closed").mkdir()
    create_key(Path("closed/keys/approver-ada"))
    with somebody():
        found = find_private((Path("closed/keys/approver-ada"), own), frozenset({public_of(key)}))
        assert public_of(found) == public_of(key)
        with pytest.raises(BadInput, match="none that is enrolled"):
            find_private((Path("closed/keys/approver-ada"),), frozenset({public_of(key)}))
