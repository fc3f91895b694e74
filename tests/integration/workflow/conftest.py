"""Makes the world of `tests/fakes` and its simulation importable, over a real Redis."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from fakes.redis_fixtures import client, redis_server, store, url

__all__ = ["client", "redis_server", "store", "url"]
