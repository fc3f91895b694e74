"""A process of its own for the tests: opens the knowledge base, obeys JSON lines on its input until that ends."""

import json
import sys
from pathlib import Path

import redis

from driftwarden.contracts.ports import PastIncident
from driftwarden.errors import Error
from driftwarden.knowledge import RedisRecordStore, connect_knowledge
from driftwarden.knowledge.connect import SharedKnowledge


def main(state: str, redis_socket: str) -> None:
    """Serve one caller."""
    records = RedisRecordStore(redis.Redis(unix_socket_path=redis_socket), "driftwarden:knowledge")
    knowledge = connect_knowledge(Path(state), records)
    assert isinstance(knowledge, SharedKnowledge)
    sys.stdout.write(json.dumps({"owner": knowledge.is_owner}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        method, arguments, named = json.loads(line)
        if method == "record_incident":
            arguments = [PastIncident.model_validate(arguments[0])]
        try:
            answer = knowledge.is_owner if method == "is_owner" else getattr(knowledge, method)(*arguments, **named)
        except Error as error:
            answer = {"error": type(error).__name__, "message": error.diagnostics()}
        sys.stdout.write(json.dumps(answer, default=lambda hit: hit.model_dump(mode="json")) + "\n")
        sys.stdout.flush()
    knowledge.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
