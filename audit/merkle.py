"""Merkle trees of RFC 6962 §2.1: leaf hash SHA-256(0x00 ‖ entry), node hash SHA-256(0x01 ‖ left ‖ right)."""

import hashlib
from collections.abc import Sequence

_sha256 = hashlib.sha256
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Hash of one entry (a line of the log without its newline), 32 bytes."""
    return _sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two subtrees, 32 bytes."""
    return _sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that grows at its right end and keeps only the roots of its perfect subtrees (log2 n hashes)."""

    def __init__(self) -> None:
        """Start empty."""
        self.size = 0
        self._roots: list[bytes] = []  # by height; empty where the size's binary digit is 0

    def add(self, leaf: bytes) -> None:
        """Append one leaf hash."""
        self.size += 1
        for height, root in enumerate(self._roots):
            if not root:
                self._roots[height] = leaf
                return
            self._roots[height] = b""
            leaf = _sha256(b"\x01" + root + leaf).digest()
        self._roots.append(leaf)

    def extend(self, leaves: bytes | bytearray) -> None:
        """Append leaf hashes, 32 bytes each, one after another; whole levels are hashed at a time."""
        self.size += len(leaves) // 32
        height, row = 0, bytes(leaves)
        while row:
            if height == len(self._roots):
                self._roots.append(b"")
            row = self._roots[height] + row
            paired = len(row) // 64 * 64
            self._roots[height] = row[paired:]
            row = b"".join([_sha256(b"\x01" + row[at : at + 64]).digest() for at in range(0, paired, 64)])
            height += 1

    def root(self) -> bytes:
        """The tree's root over all leaves so far, 32 bytes."""
        root = b""
        for subtree in self._roots:
            if subtree:
                root = node_hash(subtree, root) if root else subtree
        return root or EMPTY_ROOT


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that a leaf's audit path leads to; raises ValueError where the path's length is wrong."""
    first, last, root = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise ValueError("the path is too long")
        if first & 1 or first == last:
            root = node_hash(sibling, root)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        first, last = first >> 1, last >> 1
    if last:
        raise ValueError("the path is too short")
    return root
