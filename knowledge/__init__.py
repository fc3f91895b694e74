"""The knowledge base: runbooks shipped as Markdown, past incidents with their outcomes, searched through Chroma.

Chroma is an index only; the truth is the packaged runbooks and a `RecordStore`. One process owns the index's folder,
every other process reaches it through the owner (`connect_knowledge`).
"""

from driftwarden.knowledge.base import ChromaKnowledge, KnowledgeBase
from driftwarden.knowledge.connect import connect_knowledge
from driftwarden.knowledge.records import MemoryRecordStore, RedisRecordStore
from driftwarden.knowledge.runbooks import Runbook, packaged_runbooks, parse_runbook

__all__ = [
    "ChromaKnowledge",
    "KnowledgeBase",
    "MemoryRecordStore",
    "RedisRecordStore",
    "Runbook",
    "connect_knowledge",
    "packaged_runbooks",
    "parse_runbook",
]
