"""Accounts without rights."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

NOBODY = 65_534


@pytest.fixture
def somebody() -> Callable[[], AbstractContextManager[None]]:
    """Within it, this process has the rights of an account that is not root; files here named `own` are its own, and
    folders named `closed` are shut to it."""

    @contextmanager
    def become() -> Iterator[None]:
        folders = [path for path in Path().rglob("closed") if path.is_dir()]
        for folder in folders:
            folder.chmod(0)
        root = os.geteuid() == 0
        if root:
            for path in Path().rglob("own"):
                os.chown(path, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)
            for folder in folders:
                folder.chmod(0o700)

    return become
