"""What happens when something that the service leans on is away: it waits, goes on with less, or stops, and says so."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.cases import ScriptedCase, ScriptedKnowledge
from fakes.loopback import json_reply
from fakes.ollama import FakeOllama
from fakes.workflow_world import TestClock, World

from driftwarden.actions.registry import MlflowRegistry
from driftwarden.agents import AdkAdvisor
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.findings import Advice, AgentStep
from driftwarden.contracts.ports import PastIncident
from driftwarden.errors import Away, GiveUp, Refused, Retry
from driftwarden.knowledge import ChromaKnowledge, MemoryRecordStore, connect
from driftwarden.knowledge.connect import PatientKnowledge
from driftwarden.resilience import Breaker, BreakerSettings
from driftwarden.settings import AgentSettings
from driftwarden.stream.client import RedisAway


class Registry:
    """The plant's registry behind a breaker, as MLflow's is; `down`: it does not answer."""

    def __init__(self, world: World) -> None:
        self.plant, self.breaker = world.plant, world.parts.breakers.mlflow
        self.down, self.asked = False, 0

    def champion(self, model: Any, *, informs: bool = False) -> int | None:
        """As the plant says, where it can be asked."""
        with self.breaker.call():
            self.asked += 1
            if self.down:
                raise Retry("connection refused")
            return self.plant.champion(model, informs=informs)

    def versions(self, model: Any, limit: int = 10) -> list[dict[str, Any]]:
        """Nobody asks."""
        return []


@pytest.fixture
def registry(world: World) -> Registry:
    """In place of the world's own."""
    from driftwarden.resilience import Breakers

    world.parts.breakers = Breakers(clock=world.clock)
    found = Registry(world)
    world.parts.registry = found  # type: ignore[assignment]
    return found


def waits(world: World) -> list[str]:
    """Lines of the timeline that say what is waited for."""
    return [line["summary"] for line in world.only().timeline if line["summary"].startswith("waits: ")]


# The registry


def test_without_the_registry_it_waits_and_guesses_no_champion(world: World, registry: Registry) -> None:
    """For hours, without a counted try, asking seldom, and saying so once; when it is back it goes on by itself."""
    registry.down = True
    world.send()
    world.run()
    for _ in range(60):
        world.later(minutes=10)
        incident = world.only()
        assert (incident.state, incident.tries, incident.champion_before) == ("received", 0, None)
    assert registry.asked <= 63, "three before the breaker opens, then one each time it lets one through"
    assert len(waits(world)) == 1
    assert "the model registry: it is away: connection refused" in waits(world)[0]
    assert world.records("finding") == []
    registry.down = False
    world.later(minutes=10)
    assert world.only().state == "verifying"
    assert world.only().waits_since is None


def test_patience_with_the_registry_has_an_end(world: World, registry: Registry) -> None:
    """After the stated time its tries are counted, and it fails with the reason."""
    registry.down = True
    world.send()
    world.run()
    world.later(hours=25)
    for _ in range(10):
        world.later(minutes=10)
    assert world.only().state == "failed"
    assert "gave up after 4 tries: the model registry: it is away" in (world.only().problem or "")
    assert world.plant.moves == []


def test_what_cannot_be_measured_because_redis_went_away_is_measured_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept out of the rows stands in Redis: without its answer nothing is measured, and nothing is taken for it."""
    advise = world.script.advise

    def measuring(case: Any, knowledge: Any, **about: Any) -> Advice:
        case.measure("performance")
        return advise(case, knowledge, **about)

    def away(model: str) -> Any:
        raise RedisAway("redis is away: connection reset by peer")

    monkeypatch.setattr(world.parts, "advisor", type("Advisor", (), {"advise": staticmethod(measuring)})())
    with monkeypatch.context() as broken:
        broken.setattr(world.parts.state, "quarantined", away)
        world.send()
        world.run()
        assert (world.only().state, world.only().tries, world.records("finding")) == ("triaged", 0, [])
    world.later(minutes=10)
    assert world.only().measures["performance"]["unavailable"] == ""
    assert world.only().state == "verifying"


@pytest.mark.parametrize("task", [":measure", ":rehearse"])
def test_what_fails_because_the_registry_went_away_is_no_verdict(
    world: World, registry: Registry, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """A measurement or rehearsal that could not load the champion is done again once it can, not taken as it is."""
    call = world.script.call

    def broken(name: str, payload: dict[str, Any], **about: Any) -> dict[str, Any]:
        if name.endswith(task) and registry.down:
            raise GiveUp("cannot load version 1: MlflowException")
        return call(name, payload, **about)

    def measuring(case: Any, knowledge: Any, **about: Any) -> Advice:
        case.measure("performance")
        return world.script.advise(case, knowledge, **about)

    monkeypatch.setattr(world.parts, "sandbox", type("Sandbox", (), {"call": staticmethod(broken)})())
    monkeypatch.setattr(world.parts, "advisor", type("Advisor", (), {"advise": staticmethod(measuring)})())
    taken_in = world.parts.audit.append

    def then_away(type: str, *args: Any, **about: Any) -> str:
        registry.down = registry.down or type == "event"
        return str(taken_in(type, *args, **about))  # type: ignore[arg-type]

    monkeypatch.setattr(world.log, "append", then_away)
    world.send()
    world.run()
    world.later(minutes=10)
    assert world.only().state == ("triaged" if task == ":measure" else "planned")
    assert world.only().tries == 0
    monkeypatch.setattr(world.log, "append", taken_in)
    registry.down = False
    world.later(minutes=10)
    incident = world.only()
    assert (incident.state, incident.problem) == ("verifying", None)
    assert [one.status for one in incident.rehearsals] == ["rehearsed"]


def test_an_effect_that_fails_because_the_registry_went_away_is_looked_up_first(
    world: World, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had happened: what the action could not read back is found under its key once the registry is there."""

    action = world.actions[ActionName.RETRAIN]
    execute = action.execute

    def done_and_gone(request: Any) -> Any:
        execute(request)
        registry.down = True
        raise GiveUp("cannot load version 2: MlflowException")

    monkeypatch.setattr(action, "execute", done_and_gone)
    world.send()
    world.run()
    world.later(minutes=10)
    assert world.only().state == "executing"
    assert world.records("result") == [], "nothing is booked yet that would be taken for the whole of it"
    monkeypatch.setattr(action, "execute", execute)
    registry.down = False
    world.later(minutes=10)
    assert world.only().state == "verifying"
    assert len(world.plant.moves) == 1
    assert len(world.records("result")) == 1


def test_mlflow_that_refuses_connections_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """The real client: three refused calls open the breaker, and the next one is not even made."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    clock = TestClock()
    breaker = Breaker("the model registry", BreakerSettings(), clock)
    registry = MlflowRegistry("http://127.0.0.1:9", tmp_path, guard=breaker.call)
    model = world.settings.models["m"]
    for _ in range(3):
        with pytest.raises(Away, match=r"127\.0\.0\.1"):
            registry.champion(model)
    assert breaker.view().state == "open"
    monkeypatch.setattr(registry, "_client", lambda: pytest.fail("it was asked"))
    with pytest.raises(Away):
        registry.champion(model)


# The knowledge base


def searching(world: World) -> Callable[..., Advice]:
    """Agents that search, and go on where that fails, as the toolbox makes them."""

    def advise(case: Any, knowledge: Any, **about: Any) -> Advice:
        try:
            knowledge.search("gradual concept drift")
        except Retry:
            logging.getLogger(__name__).info("no passages")
        return world.script.advise(case, knowledge, **about)

    return advise


def test_without_the_knowledge_base_it_goes_on_less_sure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Confidence of finding and plan times the factor, in the facts of the decision and in the log, with the reason."""

    def search(text: str, **about: Any) -> tuple[Any, ...]:
        raise Away("the knowledge base", "it is away: no route")

    monkeypatch.setattr(world.silent, "search", search)
    monkeypatch.setattr(world.parts, "advisor", type("Advisor", (), {"advise": staticmethod(searching(world))})())
    world.script.confidence, world.script.win = 0.9, 0.95
    world.send()
    world.run()
    incident = world.only()
    assert incident.state == "verifying"
    assert incident.finding is not None
    assert (incident.finding.confidence, incident.finding.confidence_factor) == (0.81, 0.9)
    assert incident.confidence == pytest.approx(0.855)
    facts = world.records("decision")[0]["body"]["facts"]
    assert (facts["finding"]["confidence"], facts["plan"]["confidence"]) == ("0.81", "0.855")
    told = world.records("finding")[0]["body"]
    assert "the knowledge base could not be asked, confidence times 0.9" in told["degraded"][0]
    assert any(line["summary"].startswith("degraded: the knowledge base") for line in incident.timeline)


def test_less_sure_may_be_too_little_to_act(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the policy lets pass with the knowledge base goes to people without it."""
    monkeypatch.setattr(world.silent, "search", lambda text, **about: (_ for _ in ()).throw(Retry("down")))
    monkeypatch.setattr(world.parts, "advisor", type("Advisor", (), {"advise": staticmethod(searching(world))})())
    world.script.win = 0.85
    world.send()
    world.run()
    assert world.only().state == "awaiting_approval"
    assert world.records("decision")[0]["body"]["decision"]["decisive"] == ["confidence"]


def past(number: int) -> PastIncident:
    """One that ended."""
    return PastIncident(id=f"inc-{number}", correlation_id="a" * 32, model="m", root_cause="concept_drift",
                        action="retrain", outcome="execute", state="resolved", helped=True,
                        summary="the zirconium feed was relabelled", at="2026-11-20T09:00:00Z")  # fmt: skip


def test_a_knowledge_base_that_comes_and_goes_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away at the start, back, away, back: what was recorded meanwhile is found, and nobody asks while it is away."""
    clock, records = TestClock(), MemoryRecordStore()
    tries: list[bool] = []
    up = False

    class Failing(ChromaKnowledge):
        """A real index whose server can be cut off."""

        def search(self, text: str, **about: Any) -> Any:
            if not up:
                raise Retry("connection reset")
            return super().search(text, **about)

        def index_incident(self, incident: PastIncident) -> None:
            if not up:
                raise Retry("connection reset")
            super().index_incident(incident)

    def opened(folder: Path, kept: Any, url: str | None) -> Any:
        tries.append(up)
        if not up:
            raise Retry("connection refused")
        return Failing(folder / "index", kept)

    monkeypatch.setattr(connect, "connect_knowledge", opened)
    breaker = Breaker("the knowledge base", BreakerSettings(), clock)
    knowledge = PatientKnowledge(tmp_path, records, "http://chroma.invalid", breaker=breaker)
    for _ in range(10):
        with pytest.raises(Away, match="connection refused"):
            knowledge.search("zirconium")
    assert tries == [False] * 3
    with pytest.raises(Away):
        knowledge.record_incident(past(1))
    up = True
    clock.advance(minutes=1)
    assert len(knowledge.search("zirconium", kind="incident", limit=20)) == 1
    up = False
    with pytest.raises(Away, match="connection reset"):
        knowledge.record_incident(past(2))
    up = True
    found = {hit.id for hit in knowledge.search("zirconium", kind="incident", limit=20)}
    assert len(found) == 2, "it was opened anew, and brought in line with the records"
    knowledge.close()
    with pytest.raises(GiveUp, match="closed"):
        knowledge.search("zirconium")


# The agents' model


def test_a_model_that_fails_is_left_alone_and_the_offline_reasoner_says_so() -> None:
    """Three failures open its breaker: the next incident costs no request, and the one after a minute finds it back."""
    clock = TestClock()
    breaker = Breaker("the agents' model", BreakerSettings(), clock)

    def advise(advisor: AdkAdvisor) -> Advice:
        case, knowledge = ScriptedCase("unit_change"), ScriptedKnowledge()
        return advisor.advise(case, knowledge, correlation_id="cd" * 16, incident="inc-1")

    with FakeOllama(fault=json_reply({"error": "out of memory"}, 500)) as fake:
        settings = AgentSettings(ollama_url=fake.url)
        advisor = AdkAdvisor("ollama/llama3.1", settings=settings, request_timeout_s=60.0, breaker=breaker)
        told = [advise(advisor) for _ in range(4)]
        assert len(fake.requests) == 3
        assert {one.model for one in told} == {"offline (instead of ollama/llama3.1)"}
        assert "out of memory" in told[3].steps[0].summary
        fake.fault = None
        clock.advance(minutes=1)
        assert advise(advisor).model == "ollama/llama3.1"
    assert breaker.view().state == "closed"


def test_without_the_net_an_incident_waits_for_the_model() -> None:
    """Where the offline reasoner may not stand in, an open breaker is something that is away."""
    breaker = Breaker("the agents' model", BreakerSettings(failures=1), TestClock())
    with FakeOllama(fault=json_reply({}, 503)) as fake:
        settings = AgentSettings(ollama_url=fake.url, fallback_offline=False)
        advisor = AdkAdvisor("ollama/llama3.1", settings=settings, breaker=breaker)
        for expected in (Retry, Away):
            with pytest.raises(expected):
                advisor.advise(ScriptedCase("unit_change"), ScriptedKnowledge(), correlation_id="cd" * 16, incident="i")
        assert len(fake.requests) == 1


def test_a_fault_of_the_case_is_not_the_models() -> None:
    """A registry that is away while the agents read it passes through, and opens no breaker of the model's."""
    breaker = Breaker("the agents' model", BreakerSettings(failures=1), TestClock())

    class Case(ScriptedCase):
        """Its registry is away."""

        def registry_history(self, limit: int = 10) -> list[dict[str, Any]]:
            raise Away("the model registry", "it is away")

    with FakeOllama() as fake:
        advisor = AdkAdvisor("ollama/llama3.1", settings=AgentSettings(ollama_url=fake.url), breaker=breaker)
        with pytest.raises(Away, match="the model registry"):
            advisor.advise(Case("unit_change"), ScriptedKnowledge(), correlation_id="cd" * 16, incident="i")
    assert breaker.view().state == "closed"


def test_the_incident_says_that_no_model_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its finding, its timeline, the audit record and the agents' name."""

    def advise(case: Any, knowledge: Any, **about: Any) -> Advice:
        step = AgentStep(agent="coordinator", kind="fallback", name="offline", summary="no answer within 60 s")
        said = world.script.advise(case, knowledge, **about)
        return said.model_copy(update={"model": "offline (instead of ollama/x)", "steps": (step,)})

    monkeypatch.setattr(world.parts, "advisor", type("Advisor", (), {"advise": staticmethod(advise)})())
    world.send()
    world.run()
    incident = world.only()
    assert incident.agents_model == "offline (instead of ollama/x)"
    (record,) = world.records("finding")
    assert record["actor"]["id"] == "investigator/offline (instead of ollama/x)"
    assert "no language model answered" in record["body"]["degraded"][0]
    assert any("no answer within 60 s" in line["summary"] for line in incident.timeline)


def test_asking_people_is_told_as_that(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that only a person can clear up says so; one that is final says why; neither is tried again."""
    from driftwarden.errors import AskHuman

    for error, words in ((AskHuman("two champions"), "a person must look: two champions"), (Refused("no"), "no")):
        monkeypatch.setattr(world.plant, "champion", lambda model, error=error, **how: (_ for _ in ()).throw(error))
        world.parts.registry = world.plant  # type: ignore[assignment]
        world.send()
        world.run()
        assert (world.incidents()[-1].problem, world.incidents()[-1].tries) == (words, 0)
