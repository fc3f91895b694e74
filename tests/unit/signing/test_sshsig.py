"""SSH signatures: OpenSSH accepts ours, ours accept OpenSSH's, and nothing that was touched holds."""

import base64
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from driftwarden.errors import BadInput
from driftwarden.service.signing.keys import create_key
from driftwarden.service.signing.sshsig import parse_public, public_of, sign, verify

NAMESPACE = "approval@driftwarden.io"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNED = sign(b"yes", KEY, NAMESPACE)

needs_openssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not on the PATH")


def openssh(*arguments: str, message: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """One call of the reference implementation."""
    return subprocess.run(["ssh-keygen", *arguments], input=message, capture_output=True, timeout=60, check=False)


def armored(blob: bytes) -> str:
    """A blob in its armor."""
    return f"-----BEGIN SSH SIGNATURE-----\n{base64.b64encode(blob).decode()}\n-----END SSH SIGNATURE-----\n"


def blob_of(text: str) -> bytes:
    """What is in the armor."""
    return base64.b64decode("".join(text.splitlines()[1:-1]))


@needs_openssh
def test_openssh_accepts_ours(tmp_path: Path) -> None:
    """`ssh-keygen -Y verify` says good, for this person, namespace and message, and for no other message."""
    signers, signature = tmp_path / "allowed_signers", tmp_path / "a.sig"
    signers.write_text(f'ada namespaces="{NAMESPACE}" {public_of(KEY).line}\n')
    signature.write_text(SIGNED)
    call = ("-Y", "verify", "-f", str(signers), "-I", "ada", "-n", NAMESPACE, "-s", str(signature))
    good = openssh(*call, message=b"yes")
    assert (good.returncode, b"Good" in good.stdout) == (0, True), good.stderr
    assert openssh(*call, message=b"no").returncode != 0


@needs_openssh
def test_ours_accepts_openssh(tmp_path: Path) -> None:
    """A signature that OpenSSH made with a key that we made, and the fingerprint that it shows."""
    path = tmp_path / "key"
    key = create_key(path)
    made = openssh("-Y", "sign", "-f", str(path), "-n", NAMESPACE, message=b"yes")
    assert made.returncode == 0, made.stderr
    assert verify(made.stdout.decode(), b"yes", NAMESPACE) == public_of(key)
    shown = openssh("-l", "-f", f"{path}.pub").stdout.decode()
    assert public_of(key).fingerprint in shown


def test_the_key_that_signed_is_told() -> None:
    """Signing and verifying are inverse, and the one line of a public key reads back."""
    assert verify(SIGNED, b"yes", NAMESPACE) == public_of(KEY)
    assert parse_public(public_of(KEY).line + " ada@plant") == public_of(KEY)


@pytest.mark.parametrize(("message", "namespace"), [(b"no", NAMESPACE), (b"yes", "file"), (b"", NAMESPACE)])
def test_another_message_or_namespace_does_not_hold(message: bytes, namespace: str) -> None:
    """A signature over a file, or for another purpose, is none over this."""
    with pytest.raises(BadInput, match="signature"):
        verify(SIGNED, message, namespace)


def test_every_bit_counts() -> None:
    """Whichever bit of the blob is turned, it is refused."""
    blob = blob_of(SIGNED)
    for bit in range(len(blob) * 8):
        turned = bytearray(blob)
        turned[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadInput):
            verify(armored(bytes(turned)), b"yes", NAMESPACE)


def test_nothing_may_be_missing_or_left_over() -> None:
    """Cut anywhere, or with something behind it, it is refused."""
    blob = blob_of(SIGNED)
    assert verify(armored(blob), b"yes", NAMESPACE) == public_of(KEY)
    for wrong in (*(blob[:length] for length in range(len(blob))), blob + b"\0", blob + b"\0\0\0\0", blob * 2):
        with pytest.raises(BadInput):
            verify(armored(wrong), b"yes", NAMESPACE)


@given(text=st.text() | st.binary().map(armored))
def test_whatever_is_no_signature_is_refused_in_one_line(text: str) -> None:
    """No other exception, however odd the text."""
    with pytest.raises(BadInput) as caught:
        verify(text, b"yes", NAMESPACE)
    assert "\n" not in caught.value.diagnostics()


@pytest.mark.parametrize("line", ["", "ssh-rsa AAAA", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-ed25519 %%%%"])
def test_other_keys_are_refused(line: str) -> None:
    """Only Ed25519, only whole."""
    with pytest.raises(BadInput, match="public key"):
        parse_public(line)
