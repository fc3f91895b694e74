"""The audit log (contract §5): append, verify, read, search, report. The format stands in `docs/audit.md`."""

from driftwarden.audit.reader import Criteria, read_records, search, story
from driftwarden.audit.record import Record, json_schema
from driftwarden.audit.summary import summarise
from driftwarden.audit.verify import FileReport, VerifyReport, verify
from driftwarden.audit.writer import AuditWriter, Limits

__all__ = [
    "AuditWriter",
    "Criteria",
    "FileReport",
    "Limits",
    "Record",
    "VerifyReport",
    "json_schema",
    "read_records",
    "search",
    "story",
    "summarise",
    "verify",
]
