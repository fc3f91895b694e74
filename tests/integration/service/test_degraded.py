"""What happens when something that the service leans on is away: it waits, goes on with less, or stops, and says so."""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.cases import ScriptedCase, ScriptedKnowledge
from fakes.loopback import json_reply
from fakes.ollama import FakeOllama
from fakes.workflow_world import PREFIX, TestClock, World

from driftwarden.actions.registry import MlflowRegistry
from driftwarden.agents import AdkAdvisor
from driftwarden.audit import AuditWriter, files, verify
from driftwarden.audit.maintain import fsck
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.findings import Advice, AgentStep
from driftwarden.contracts.ports import PastIncident
from driftwarden.errors import Away, GiveUp, LogUnwritable, Refused, Retry
from driftwarden.knowledge import ChromaKnowledge, MemoryRecordStore, connect
from driftwarden.knowledge.connect import PatientKnowledge
from driftwarden.resilience import Breaker, BreakerSettings
from driftwarden.service.workflow.health import Health, processes
from driftwarden.service.workflow.parts import current_lease
from driftwarden.service.workflow.process import REPLACED_MAX, ServiceProcess, bury
from driftwarden.settings import AgentSettings
from driftwarden.stream.client import RedisAway
from driftwarden.stream.dead_letters import DeadLetters
from driftwarden.stream.intake import Intake

PATIENCE_S = 120.0  # with a slow machine, for what comes in no time on another


class Registry:
    """The plant's registry behind a breaker, as MLflow's is; `down`: it does not answer."""

    def __init__(self, world: World) -> None:
        self.plant, self.breaker = world.plant, world.parts.breakers.mlflow
        self.down, self.asked = False, 0

    def champion(self, model: Any) -> int | None:
        """As the plant says, where it can be asked."""
        with self.breaker.call():
            self.asked += 1
            if self.down:
                raise Retry("connection refused")
            return self.plant.champion(model)

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
    from driftwarden.contracts.base import ActionName

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


# The audit log's disk


class Disk:
    """The disk under the audit log, behind the real `os.write`: `full` after so many writes of records of a type."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full: str | None = None
        self.code = errno.ENOSPC
        write, self.folder = os.write, folder

        def guarded(handle: int, data: Any) -> int:
            if self.full is not None and Path(f"/proc/self/fd/{handle}").readlink().is_relative_to(folder):
                begun = self.full == "everything" or f'"type":"{self.full}"'.encode() in bytes(data)
                if begun:
                    self.full = "everything"
                    raise OSError(self.code, os.strerror(self.code))
            return write(handle, data)

        monkeypatch.setattr(files.os, "write", guarded)


@pytest.fixture
def disk(world: World, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Of this world's log."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("which file a handle belongs to is read from /proc")
    return Disk(world.settings.audit_dir, monkeypatch)


def start(world: World, *, name: str = "p", **about: Any) -> ServiceProcess:
    """A process of this world with one worker, running."""
    intake = Intake(world.client, f"{name}-intake", prefix=PREFIX, reclaim_after_ms=0)
    health = Health(world.client, PREFIX, f"{name}-health")
    process = ServiceProcess(world.parts, world.store, intake, name=name, workers=1, health=health, **about)
    process.start()
    return process


@pytest.mark.parametrize(
    ("at", "code"),
    [
        ("event", errno.ENOSPC),
        ("finding", errno.EDQUOT),
        ("decision", errno.EROFS),
        ("intent", errno.ENOSPC),
        ("result", errno.ENOSPC),
    ],
)
def test_a_full_disk_stops_everything_and_loses_nothing(world: World, disk: Disk, at: str, code: int) -> None:
    """Nothing executes that was not written down; the process ends and says why; with room again the next one goes on."""
    disk.full, disk.code = at, code
    process = start(world)
    world.send()
    assert process.wait(PATIENCE_S)
    assert process.stop(PATIENCE_S).threads == ()
    assert os.strerror(code) in (process.fault or "")
    assert bool(world.plant.moves) is (at == "result"), "an effect only after its intent was on the disk"
    (word,) = processes(world.client, PREFIX)
    assert not word.is_live
    assert os.strerror(code) in (word.said.ended or "")
    (record,) = world.store.list()
    assert (record.crashes, record.leased, record.ended) == (0, False, False)

    # A restart on the disk as it is changes nothing, and counts against nobody.
    for _ in range(world.settings.service.crashes_max + 1):
        with pytest.raises(LogUnwritable):
            AuditWriter(world.settings.audit_dir, stream="again", clock=world.clock)
    world.send()
    disk.full = None
    if (world.settings.audit_dir / files.UNWRITABLE_MARK).exists():
        assert fsck(world.settings.audit_dir).cleared
    world.log = AuditWriter(world.settings.audit_dir, stream="mended", clock=world.clock)
    world.parts = world._parts()
    following = start(world, name="q")
    for transition in world.store.watch("0", block_ms=500):
        if transition is not None and transition.state in {"verifying", "failed"}:
            break
    following.stop()
    assert world.incidents()[0].state == "verifying"
    assert len(world.plant.moves) == 1
    assert len(world.records("intent")) == len(world.records("result")) == 1
    assert verify(world.settings.audit_dir).ok
    assert processes(world.client, PREFIX) == (), "the old one's last words are over, and the new one has left"


def test_a_full_disk_leaves_events_in_the_intake(world: World, disk: Disk) -> None:
    """What came in while nothing could be written waits where it was put, and is taken in later."""
    disk.full = "everything"
    process = start(world)
    world.send()
    assert process.wait(PATIENCE_S)
    process.stop(PATIENCE_S)
    for _ in range(5):
        world.send(world.event("other"))
    assert world.client.xlen(f"{PREFIX}events") + sum(len(one.events) for one in world.store.list()) == 6


# Steps that hang


@pytest.fixture
def hang(world: World) -> Iterator[threading.Event]:
    """The first investigation hangs until this is set."""
    released, first = threading.Event(), threading.Lock()

    def wait() -> None:
        if first.acquire(blocking=False):
            assert released.wait(PATIENCE_S)

    world.script.on_advise = wait
    yield released
    released.set()


def time_is_up() -> None:
    """For the step that this thread is in; the next one has all of its time again, on a slow machine too."""
    heart: Any = current_lease.get()
    with heart._turn:
        heart._deadline = time.monotonic()
        heart._turn.notify()


def triaged_within(world: World, seconds: float) -> None:
    """An investigation may take so long."""
    deadlines = world.parts.settings.service.step_deadlines.model_copy(update={"triaged": timedelta(seconds=seconds)})
    service = world.parts.settings.service.model_copy(update={"step_deadlines": deadlines})
    world.settings = world.parts.settings = world.parts.settings.model_copy(update={"service": service})


def until(world: World, *states: str) -> None:
    """Wait for the incident to come to one of these states."""
    for transition in world.store.watch("0", block_ms=500):
        if transition is not None and transition.state in states:
            return


def test_a_step_that_hangs_is_tried_again_and_its_late_result_is_not_taken(world: World, hang: threading.Event) -> None:
    """The worker that hangs is replaced; when its step ends at last it changes nothing."""
    triaged_within(world, 3600)
    hold = world.script.on_advise
    world.script.on_advise = lambda: (time_is_up() if world.script.advised == 1 else None, hold())
    process = start(world, health_every_s=0.05)
    world.send()
    until(world, "verifying")
    Health(world.client, PREFIX, "p-health").tell(process.said())  # as its own thread does, sooner or later
    live = [line for one in processes(world.client, PREFIX) for line in one.workers()]
    assert [line["doing"] for line in live].count("late") == 1
    (late,) = [line for line in live if line["doing"] == "late"]
    assert (late["incident"], late["state"]) == (world.only().id, "triaged")
    hang.set()
    assert process.stop().threads == ()
    assert world.only().state == "verifying"
    assert world.script.advised == 2
    types = [record["type"] for record in world.records()]
    assert [types.count(one) for one in ("finding", "plan", "rehearsal", "intent", "result")] == [1] * 5
    assert len(world.plant.moves) == 1
    notes = [line["summary"] for line in world.only().timeline if line["summary"].startswith("try 1 of triaged")]
    assert len(notes) == 1
    assert "no end within 3600 s" in notes[0]


def test_a_step_that_always_hangs_fails_its_incident_with_the_reason(world: World, hang: threading.Event) -> None:
    """As often as any other fault is tried; each hanging thread is somebody's whom another replaced."""
    service = world.parts.settings.service.model_copy(update={"tries_max": 2})
    world.settings = world.settings.model_copy(update={"service": service})
    world.parts.settings = world.settings
    triaged_within(world, 0.2)
    world.script.on_advise = lambda: hang.wait(PATIENCE_S)
    process = start(world, health_every_s=0.05)
    world.send()
    until(world, "failed")
    hang.set()
    assert process.stop().threads == ()
    assert "gave up after 2 tries: no end within 0.2 s" in (world.only().problem or "")
    assert world.records("finding") == []
    assert world.plant.moves == []


def test_workers_that_hang_are_not_replaced_without_end(new_world: Callable[..., World]) -> None:
    """Each leaves a thread behind: from some number on nobody new begins, and health shows them all."""
    world = new_world(models=("a", "b", "c", "d"))
    triaged_within(world, 0.2)
    released = threading.Event()
    world.script.on_advise = lambda: released.wait(PATIENCE_S)
    process = start(world, health_every_s=0.05)
    for model in ("a", "b", "c", "d"):
        world.send(world.event(model))
    tried: list[str] = []
    for transition in world.store.watch("0", block_ms=500):
        if transition is not None and transition.before == transition.state == "triaged":
            tried.append(transition.incident)
        if len(tried) == 1 + REPLACED_MAX:
            break
    process.replace_late()
    doing = [worker.doing for worker in process.said().workers]
    assert doing == ["late"] * (1 + REPLACED_MAX)
    released.set()
    assert process.stop().threads == ()
    assert world.records("finding") == []


@pytest.mark.parametrize("how", ["late", "paused"])
def test_what_comes_of_a_step_that_lost_its_hold_is_in_no_book(world: World, how: str) -> None:
    """It fails at its effect after another worker took over: that one's reservation, and the approval, stand; nobody is told.

    `late`: outlived its deadline; `paused`: beyond its lease, and woken before its own heart noticed.
    """
    world.script.win = 0.5
    world.send()
    world.run()
    world.approve("bob")

    def refuse(request: Any) -> None:
        if not world.records("intent"):
            return
        heart: Any = current_lease.get()
        if how == "late":
            assert heart.lose()
        else:
            world.client.hincrby(f"{PREFIX}wf:{request.incident}", "fence", 1)
            heart.beat_at -= 3600
        raise Refused("too late")

    action: Any = world.actions[ActionName.RETRAIN]
    action.precheck = refuse
    told = dict(world.silent.messages)
    world.run()
    assert world.only().state == "executing"
    (entry,) = world.parts.ledger.entries().values()
    (request,) = world.parts.approvals.list()
    assert (entry["state"], request.state, world.silent.messages) == ("running", "approved", told)


# Events that nobody foresaw


def test_an_event_that_cannot_be_taken_up_stops_none_behind_it(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours in the intake: what else was read is taken at once, and after a few tries it is a dead letter."""
    world = new_world(models=("m", "n"))
    intake = Intake(world.client, "i0", prefix=PREFIX, before_burial=bury(world.parts), reclaim_after_ms=0)
    process = ServiceProcess(world.parts, world.store, intake, name="p", workers=0)
    groups = process._groups

    def fault(event: Any) -> Any:
        return 1 / 0 if event.model == "n" else groups(event)

    monkeypatch.setattr(process, "_groups", fault)
    world.send(world.event("n", id="poison"))
    world.send()
    for _ in range(world.settings.service.crashes_max - 1):
        with pytest.raises(ZeroDivisionError):
            process.take_or_set_aside(intake.read(10))
        assert [one.model for one in world.incidents()] == ["m"]
    process.take_or_set_aside(intake.read(10))
    (letter,) = DeadLetters(world.client, PREFIX).list()
    assert (letter.event_id, letter.got) == ("poison", "ZeroDivisionError")
    assert [record["body"]["event_id"] for record in world.records("dead_letter")] == ["poison"]
    assert world.client.xlen(f"{PREFIX}events") == 0
    monkeypatch.undo()
    DeadLetters(world.client, PREFIX).redrive(letter.id)
    world.take_in()
    assert sorted(one.model for one in world.incidents()) == ["m", "n"]


def test_what_is_away_sets_no_event_aside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often: it is not the event's fault."""
    intake = Intake(world.client, "i0", prefix=PREFIX, reclaim_after_ms=0)
    process = ServiceProcess(world.parts, world.store, intake, name="p", workers=0)

    def away(*args: Any, **about: Any) -> Any:
        raise Retry("redis is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "admit_many", away)
        world.send()
        for _ in range(9):
            with pytest.raises(Retry):
                process.take_or_set_aside(intake.read(10))
    process.take_or_set_aside(intake.read(10))
    assert [one.model for one in world.incidents()] == ["m"]


@pytest.mark.parametrize("uri", ["file://[x/y", "http://[::1/x", "file://a]/b"])
def test_a_report_of_a_file_that_is_no_place_is_taken_as_reported(world: World, uri: str) -> None:
    """It must not stop the intake: its figure stands as somebody's word."""
    world.report(uri=uri)
    world.take_in()
    assert world.client.xlen(f"{PREFIX}events") == 0
    assert world.parts.metrics.last("m")[-1]["basis"] == "reported"


# Stopping


def test_what_is_in_hand_at_the_end_of_a_stop_is_handed_back(world: World, hang: threading.Event) -> None:
    """Another worker takes it up at once, no crash is counted, and the one that hung changes nothing."""
    begun = threading.Event()
    hold = world.script.on_advise
    world.script.on_advise = lambda: (begun.set(), hold())
    triaged_within(world, 3600)
    process = start(world)
    world.send()
    assert begun.wait(PATIENCE_S)
    stopped = process.stop(0.0)
    (record,) = world.store.list()
    assert stopped.handed == (record.id,)
    assert (record.state, record.leased, record.crashes) == ("triaged", False, 0)
    assert "driftwarden worker 0" in stopped.threads
    world.run(world.worker("other"))
    assert world.only().state == "verifying"
    count = len(world.records())
    hang.set()
    assert process.stop().threads == ()
    assert len(world.records()) == count
    assert len(world.plant.moves) == 1


def test_with_redis_away_what_is_in_hand_is_left_to_its_lease(
    world: World, hang: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop ends all the same, and says so."""
    begun = threading.Event()
    hold = world.script.on_advise
    world.script.on_advise = lambda: (begun.set(), hold())
    triaged_within(world, 3600)
    process = start(world)
    world.send()
    assert begun.wait(PATIENCE_S)

    def away(claim: Any) -> None:
        raise Retry("redis is away")

    monkeypatch.setattr(world.store, "hand_back", away)
    stopped = process.stop(0.0)
    assert (stopped.handed, stopped.left) == ((), (world.store.list()[0].id,))
    hang.set()
    process.stop()
    assert world.records("finding") == []


def test_a_worker_that_is_stopped_while_it_claims_begins_nothing(world: World) -> None:
    """What it was given in that very moment goes back."""
    world.send()
    world.take_in()
    worker, stop = world.worker(), threading.Event()
    claim = world.store.claim

    def then_stop(*args: Any, **about: Any) -> Any:
        found = claim(*args, **about)
        stop.set()
        return found

    world.store.claim = then_stop  # type: ignore[method-assign]
    worker.run(stop, block_ms=0)
    (record,) = world.store.list()
    assert (record.state, record.leased, record.crashes) == ("received", False, 0)
    assert world.records("event") == []


def test_asking_people_is_told_as_that(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that only a person can clear up says so; one that is final says why; neither is tried again."""
    from driftwarden.errors import AskHuman

    for error, words in ((AskHuman("two champions"), "a person must look: two champions"), (Refused("no"), "no")):
        monkeypatch.setattr(world.plant, "champion", lambda model, error=error: (_ for _ in ()).throw(error))
        world.parts.registry = world.plant  # type: ignore[assignment]
        world.send()
        world.run()
        assert (world.incidents()[-1].problem, world.incidents()[-1].tries) == (words, 0)
