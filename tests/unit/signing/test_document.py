"""docs/approvals.md says what the program does: its example verifies, its lists of fields are the fields."""

import json
import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from driftwarden.clock import parse_rfc3339
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.decision import ApprovalTerms
from driftwarden.contracts.findings import Candidate, Plan
from driftwarden.errors import BadInput
from driftwarden.service.signing import requests
from driftwarden.service.signing.grants import NAMESPACE, Question, statement
from driftwarden.service.signing.sshsig import parse_public, verify
from driftwarden.service.workflow.approvals import approval_id
from driftwarden.service.workflow.binding import bound_document
from driftwarden.service.workflow.incident import Incident
from driftwarden.settings import Approver, ApproverKey
from driftwarden.strict import canonical_json, digest

TEXT = (Path(__file__).parents[3] / "docs" / "approvals.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """The fenced block of this name."""
    (found,) = re.findall(rf"^```{name}\n(.*?)\n```$", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


def fields(heading: str) -> set[str]:
    """First column of the table in a section."""
    section = TEXT.split(heading)[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_example_is_canonical_and_its_digest_and_id_are_right() -> None:
    """The bound document, the digest over it, the id, and the statement that repeats both."""
    bound, said = json.loads(block("json")), json.loads(block("statement"))
    assert canonical_json(bound).decode() == block("json")
    assert digest(bound) == said["digest"]
    assert f"    {digest(bound)}\n" in TEXT
    assert approval_id(bound["incident"], said["digest"]) == said["approval"]
    question = Question(**{name: said[name] for name in Question.model_fields})
    words = {name: said[name] for name in ("by", "group", "at", "reason")}
    assert statement(question, said["verdict"], **words).decode() == block("statement")


def test_the_examples_signatures_hold() -> None:
    """By the key of the example list: the approval's, and the request's by hand."""
    key = parse_public(re.search(r"public: (ssh-ed25519 \S+)", TEXT).group(1))  # type: ignore[union-attr]
    assert verify(block("signature") + "\n", block("statement").encode(), NAMESPACE) == key
    assert verify(block("request-signature") + "\n", block("request").encode(), requests.NAMESPACE) == key


def test_the_request_by_hand_is_heard_as_it_stands_there() -> None:
    """The example's fields, key and signature make a request that the service takes up within the day."""
    line = re.search(r"public: (ssh-ed25519 \S+)", TEXT).group(1)  # type: ignore[union-attr]
    said = json.loads(block("request"))
    payload = said | {"public_key": line, "signature": block("request-signature") + "\n"}
    ada = {"ada": Approver(groups=("risk",), keys=(ApproverKey(public=line),))}
    about = {"incident": said["incident"], "what": said["what"], "approvers": ada}
    now = parse_rfc3339(said["at"]) + requests.AGE_MAX
    assert requests.hear_request(payload, now=now, **about).statement.decode() == block("request")
    with pytest.raises(BadInput, match="last 24 hours"):
        requests.hear_request(payload, now=now + timedelta(seconds=1), **about)


TOOLS = all(map(shutil.which, ("ssh-keygen", "jq", "sh")))


@pytest.mark.skipif(not TOOLS, reason="ssh-keygen or jq is not on the PATH")
def test_the_commands_for_an_auditor_work(tmp_path: Path) -> None:
    """As they stand there, on a record's body."""
    key = re.search(r"public: (ssh-ed25519 \S+)", TEXT).group(1)  # type: ignore[union-attr]
    grant = {"by": "ada", "public_key": key, "signature": block("signature") + "\n", "statement": block("statement")}
    (tmp_path / "body.json").write_text(json.dumps({"granted": [grant]}))
    done = subprocess.run(
        ["sh", "-ec", block("sh")], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, "Good" in done.stdout) == (0, True), done.stderr


def test_the_lists_of_fields_are_the_fields() -> None:
    """Of what is bound, and of what is signed."""
    moment = "2026-11-20T09:00:00.000000Z"
    plan = Plan(candidates=(Candidate(id="c1", action=ActionName.RETRAIN),))
    incident = Incident(
        id="inc-1", correlation_id="a" * 32, model="m", opened_at=moment, updated_at=moment, plan=plan, chosen="c1"
    )
    terms = ApprovalTerms(required=1, from_=("risk",), expires_after_seconds=60)
    assert fields("## 2. What is bound") == set(bound_document(incident, terms, ()))
    assert fields("## 3. What is signed") == set(json.loads(block("statement")))
    assert fields("## 6. Requests by hand") >= set(json.loads(block("request")))
