"""A small model of the lease and commit protocol: guarded atomic actions on one immutable state, explored exhaustively.

What is modelled: the scripts acquire, commit (go, park, release, finish), heartbeat, hand_back and timers as one atomic
action each; workers that crash or sleep beyond their lease at any step and wake up; a heart that beats once more after
its work was committed; news (an event, a signal) at any moment; and an effect at a sink: looked up by its key, the lease
checked, then called. What is not: documents, reading, signals' contents, the successor (tests/simulation has the real scripts).

Time is left out: a lease runs out, and a timer fires, at any moment. A sink is `conditional` (creates once for a key,
whoever calls) or `queryable` (every call takes effect, what happened can be asked). One assumption holds the second
one up: a call that begins under a checked lease ends before that lease. `stalls` drops it.

Fences and versions only grow and are only ever compared for equality, so a state is kept in a normal form, in which the
incident's own are 0 and a claim's are 0 (as the incident's) or -1 (older): the state space is finite and exact.
"""

from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Sink = Literal["conditional", "queryable"]


class Incident(NamedTuple):
    """The hash of an incident, its activations and its timer; `effects`: what the sink's own log holds under its key."""

    model: int
    phase: str = "received"  # received -> intent -> done
    fence: int = 0
    version: int = 0
    leased: bool = False  # and the lease has not run out
    running: bool = False  # an activation is the running one: pending until a commit settles it
    wake: bool = False
    fresh: int = 1  # activations that nobody runs
    timer: bool = False
    news: bool = False  # something came that no claim has read
    effects: int = 0


class Worker(NamedTuple):
    """What a worker remembers. Steps: free, held, absent (looked up), checked, called, late (its heart beats once more)."""

    step: str = "free"
    incident: int = -1
    fence: int = 0
    version: int = 0
    phase: str = ""


class Slot(NamedTuple):
    """A model's slot: which incident has it, who waits for it."""

    active: int = -1
    queue: tuple[int, ...] = ()


class Budget(NamedTuple):
    """How much may still go wrong or come in."""

    crashes: int = 1
    pauses: int = 1
    parks: int = 1
    news: int = 1


class State(NamedTuple):
    """Everything; `pumped`: a timer that was taken out and not yet made an activation (-1: the script is atomic)."""

    incidents: tuple[Incident, ...]
    slots: tuple[Slot, ...]
    workers: tuple[Worker, ...]
    budget: Budget
    pumped: int = -1


class Move(NamedTuple):
    """One action: its name, what follows, and which claim made it (None: no worker's doing)."""

    name: str
    after: State
    by: Worker | None = None


@dataclass(frozen=True)
class Rules:
    """The protocol; each guard can be left out, which is a seeded fault that the exploration must find."""

    sink: Sink = "queryable"
    stalls: bool = False  # a call may still be under way when its lease has run out
    checks_fence_at_commit: bool = True
    bumps_fence: bool = True
    respects_lease: bool = True
    respects_slot: bool = True
    intends_first: bool = True
    looks_up: bool = True
    checks_lease_before_effect: bool = True
    fences_heartbeat: bool = True
    beats_only_while_running: bool = True
    hands_slot_over: bool = True
    parks_with_timer: bool = True
    pumps_atomically: bool = True
    remembers_wake: bool = True
    settles_own_entry_only: bool = True


@dataclass
class Explored:
    """What the exploration saw; a violation with the shortest way there."""

    states: int = 0
    moves: int = 0
    violation: str | None = None
    trace: list[str] = field(default_factory=list)
    stuck: int = 0


def begin(models: int, budget: Budget, *, incidents: int = 2, workers: int = 2) -> State:
    """Two incidents were just opened, on one model or on one each."""
    opened = tuple(Incident(model=number % models) for number in range(incidents))
    return State(opened, (Slot(),) * models, (Worker(),) * workers, budget)


# Actions


def moves(state: State, rules: Rules) -> Iterator[Move]:
    """Every action that is enabled."""
    for number, worker in enumerate(state.workers):
        if worker.step == "free":
            for target in range(len(state.incidents)):
                yield from _take(state, rules, number, target)
        else:
            yield from _work(state, rules, number, worker)
    for target, incident in enumerate(state.incidents):
        yield from _surroundings(state, rules, target, incident)
    if state.pumped >= 0:
        target = state.incidents[state.pumped]
        yield Move(
            "pump: activate", _put(state._replace(pumped=-1), state.pumped, target._replace(fresh=target.fresh + 1))
        )


def _surroundings(state: State, rules: Rules, target: int, incident: Incident) -> Iterator[Move]:
    budget, name = state.budget, f"incident {target}"
    if incident.leased:
        holders = [w for w in state.workers if w.incident == target and w.step != "late" and is_current(w, state)]
        calling = any(w.step == "checked" for w in holders)
        if not holders:  # its worker died
            yield Move(f"{name}: lease runs out", _put(state, target, incident._replace(leased=False)))
        elif budget.pauses and (rules.stalls or not calling):
            paused = state._replace(budget=budget._replace(pauses=budget.pauses - 1))
            yield Move(f"{name}: worker sleeps, lease runs out", _put(paused, target, incident._replace(leased=False)))
    if incident.timer:
        off = incident._replace(timer=False)
        if rules.pumps_atomically:
            yield Move(f"{name}: timer fires", _put(state, target, off._replace(fresh=off.fresh + 1)))
        elif state.pumped < 0:
            yield Move(f"{name}: timer removed", _put(state._replace(pumped=target), target, off))
    if budget.news and incident.phase == "received":
        told = state._replace(budget=budget._replace(news=budget.news - 1))
        yield Move(f"{name}: news", _put(told, target, incident._replace(news=True, fresh=incident.fresh + 1)))


def _take(state: State, rules: Rules, number: int, target: int) -> Iterator[Move]:
    """acquire, with a fresh activation or with the running one of a worker that was not heard of."""
    incident = state.incidents[target]
    slot = state.slots[incident.model]
    name = f"worker {number}: takes {target}"
    ways = [("fresh", incident._replace(fresh=incident.fresh - 1))] if incident.fresh else []
    if incident.running and not incident.leased:
        ways.append(("reclaimed", incident._replace(running=False)))
    for way, dropped in ways:
        if incident.phase == "done":
            yield Move(f"{name}, {way}: ended", _put(state, target, dropped))
        elif rules.respects_slot and slot.active not in {-1, target}:
            waits = slot.queue if target in slot.queue else (*slot.queue, target)
            yield Move(
                f"{name}, {way}: queued",
                _slot(_put(state, target, dropped), incident.model, slot._replace(queue=waits)),
            )
        elif incident.leased and rules.respects_lease:
            yield Move(f"{name}, {way}: coalesced", _put(state, target, dropped._replace(wake=rules.remembers_wake)))
        else:
            fence = incident.fence + rules.bumps_fence
            taken = dropped._replace(fence=fence, leased=True, running=True, wake=False, news=False)
            claim = Worker("held", target, fence, incident.version, incident.phase)
            after = _slot(_put(state, target, taken), incident.model, slot._replace(active=target))
            yield Move(f"{name}, {way}", _worker(after, number, claim))


def _work(state: State, rules: Rules, number: int, worker: Worker) -> Iterator[Move]:
    name, free = f"worker {number}", _worker(state, number, Worker())
    incident, budget = state.incidents[worker.incident], state.budget
    if worker.step == "late":
        yield Move(f"{name}: stops", free, worker)
        yield Move(f"{name}: heart beats once more", _beat(free, rules, worker), worker)
        return
    if budget.crashes and worker.step != "late":
        yield Move(f"{name}: crashes", free._replace(budget=budget._replace(crashes=budget.crashes - 1)))
    if not incident.leased:
        alive = state if _may_beat(state, rules, worker) else free
        yield Move(f"{name}: heart beats", _beat(alive, rules, worker), worker)
    if worker.step == "held":
        if budget.parks:
            spent = state._replace(budget=budget._replace(parks=budget.parks - 1))
            yield _commit(spent, rules, number, "park")
            if worker.phase == "received":
                yield _commit(spent, rules, number, "release")
                yield _hand_back(spent, rules, number)
        if worker.phase == "received" and rules.intends_first:
            yield _commit(state, rules, number, "intent")
        elif not rules.looks_up:
            yield Move(f"{name}: does not look", _worker(state, number, worker._replace(step="absent")), worker)
        else:
            found = "called" if incident.effects else "absent"
            yield Move(f"{name}: looks up, {found}", _worker(state, number, worker._replace(step=found)), worker)
    elif worker.step == "absent":
        yield _check(state, rules, number)
    elif worker.step == "checked":
        again = incident.effects + (rules.sink != "conditional" or not incident.effects)
        done = _put(state, worker.incident, incident._replace(effects=again))
        yield Move(f"{name}: calls", _worker(done, number, worker._replace(step="called")), worker)
    elif worker.step == "called":
        yield _commit(state, rules, number, "finish")


def _check(state: State, rules: Rules, number: int) -> Move:
    """The lease is asked for, and prolonged, right before the call."""
    worker = state.workers[number]
    on = _worker(state, number, worker._replace(step="checked"))
    if not rules.checks_lease_before_effect:
        return Move(f"worker {number}: does not check", on, worker)
    if not _may_beat(state, rules, worker):
        return Move(f"worker {number}: fenced", _worker(state, number, Worker()), worker)
    return Move(f"worker {number}: checks its lease", _beat(on, rules, worker), worker)


def _may_beat(state: State, rules: Rules, worker: Worker) -> bool:
    incident = state.incidents[worker.incident]
    fenced = rules.fences_heartbeat and incident.fence != worker.fence
    return not fenced and (incident.running or not rules.beats_only_while_running)


def _beat(state: State, rules: Rules, worker: Worker) -> State:
    if not _may_beat(state, rules, worker):
        return state
    return _put(state, worker.incident, state.incidents[worker.incident]._replace(leased=True))


def _commit(state: State, rules: Rules, number: int, what: str) -> Move:
    worker = state.workers[number]
    name, target = f"worker {number}: commits {what}", worker.incident
    incident = state.incidents[target]
    if rules.checks_fence_at_commit and not is_current(worker, state):
        return Move(f"{name}, fenced", _worker(state, number, Worker()), worker)
    version = incident.version + 1
    if what == "intent":  # go: keeps lease and slot, and brings what came meanwhile
        step = incident._replace(phase="intent", version=version, leased=True, timer=False, news=False)
        held = worker._replace(version=version, phase="intent")
        return Move(name, _worker(_put(state, target, step), number, held), worker)
    phase = "done" if what == "finish" else worker.phase
    timer = what != "finish" and rules.parks_with_timer
    left = incident._replace(phase=phase, version=version, leased=False, running=False, timer=timer, wake=False,
                             fresh=incident.fresh + incident.wake)  # fmt: skip
    after = _put(state, target, left)
    if what != "park":
        after = _hand_over(after, rules, target)
    return Move(name, _worker(after, number, worker._replace(step="late", version=version)), worker)


def _hand_over(state: State, rules: Rules, target: int) -> State:
    model = state.incidents[target].model
    slot = state.slots[model]
    if slot.active != target:
        return state
    if not slot.queue or not rules.hands_slot_over:
        return _slot(state, model, slot._replace(active=-1))
    following, *queue = slot.queue
    incident = state.incidents[following]
    state = _put(state, following, incident._replace(fresh=incident.fresh + 1))
    return _slot(state, model, Slot(following, tuple(queue)))


def _hand_back(state: State, rules: Rules, number: int) -> Move:
    worker = state.workers[number]
    name, incident = f"worker {number}: hands back", state.incidents[worker.incident]
    free = _worker(state, number, Worker())
    if rules.settles_own_entry_only and not (incident.fence == worker.fence and incident.running):
        return Move(f"{name}, fenced", free, worker)
    given = incident._replace(leased=False, running=False, wake=False, fresh=incident.fresh + 1)
    return Move(name, _worker(_put(state, worker.incident, given), number, worker._replace(step="late")), worker)


def is_current(worker: Worker, state: State) -> bool:
    """Whether this claim may commit."""
    incident = state.incidents[worker.incident]
    return (worker.fence, worker.version) == (incident.fence, incident.version)


def _put(state: State, target: int, incident: Incident) -> State:
    found = list(state.incidents)
    found[target] = incident
    return state._replace(incidents=tuple(found))


def _slot(state: State, model: int, slot: Slot) -> State:
    found = list(state.slots)
    found[model] = slot
    return state._replace(slots=tuple(found))


def _worker(state: State, number: int, worker: Worker) -> State:
    found = list(state.workers)
    found[number] = worker
    return state._replace(workers=tuple(found))


# Invariants: of a state, and of a move


def _effects(state: State) -> bool:
    return all(incident.effects <= 1 for incident in state.incidents)


def _intended(state: State) -> bool:
    return all(incident.phase != "received" or not incident.effects for incident in state.incidents)


def _one_committer(state: State) -> bool:
    able = [
        state.incidents[w.incident].model
        for w in state.workers
        if w.step not in {"free", "late"} and is_current(w, state)
    ]
    return len(able) == len(set(able))


def _one_remediation(state: State) -> bool:
    acting = [incident.model for incident in state.incidents if incident.phase == "intent"]
    return len(acting) == len(set(acting))


def _slot_in_use(state: State) -> bool:
    return all(slot.active >= 0 or not slot.queue for slot in state.slots)


def _reachable(state: State, number: int, incident: Incident) -> bool:
    return bool(incident.fresh or incident.running or number in state.slots[incident.model].queue)


def _conserved(state: State) -> bool:
    return all(
        incident.phase == "done" or incident.timer or _reachable(state, number, incident)
        for number, incident in enumerate(state.incidents)
    )


def _heard(state: State) -> bool:
    return all(
        incident.phase == "done" or not incident.news or _reachable(state, number, incident)
        for number, incident in enumerate(state.incidents)
    )


ALWAYS: dict[str, Callable[[State], bool]] = {
    "no key has two effects": _effects,
    "the intent is stored before the effect": _intended,
    "one lease holder of a model can commit": _one_committer,
    "one remediation of a model at a time": _one_remediation,
    "nobody queues for a slot that is free": _slot_in_use,
    "a conserved incident is in activations, timers or queue": _conserved,
    "news does not wait for a timer": _heard,
}
CHANGES_NOTHING = "a fenced worker changes nothing"
PROGRESS = "every incident can still reach its end"
INVARIANTS = (*ALWAYS, CHANGES_NOTHING, PROGRESS)


def _changes_nothing(before: State, move: Move) -> bool:
    """What a fenced claim does leaves incidents, slots and sinks as they were."""
    if move.by is None or move.by.step == "late" or is_current(move.by, before):
        return True
    return (before.incidents, before.slots) == (move.after.incidents, move.after.slots)


# Exploration


def normal(state: State) -> State:
    """The one representative of all states that behave alike: fences and versions relative, workers without names."""
    incidents = state.incidents
    workers = []
    for worker in state.workers:
        if worker.step != "free":
            target = incidents[worker.incident]
            fence, version = -(worker.fence != target.fence), -(worker.version != target.version)
            worker = worker._replace(fence=fence, version=version)
        workers.append(worker)
    plain = tuple(incident._replace(fence=0, version=0) for incident in incidents)
    return state._replace(incidents=plain, workers=tuple(sorted(workers)))


def explore(start: State, rules: Rules, *, watch: Collection[str] = INVARIANTS) -> Explored:
    """Breadth first over every reachable state, as far as the first violation of an invariant that is watched."""
    holding = {what: holds for what, holds in ALWAYS.items() if what in watch}
    first = normal(start)
    known: dict[State, int] = {first: 0}
    order, parents = [first], array("l", [-1])
    edges_from, edges_to = array("l"), array("l")
    todo, seen = deque([0]), Explored()

    def violated(what: str, at: int, last: State | None = None) -> Explored:
        way = [last] if last is not None else []
        while at > 0:
            way.append(order[at])
            at = parents[at]
        seen.violation, seen.trace, seen.states = what, _story(start, way[::-1], rules), len(order)
        return seen

    while todo:
        at = todo.popleft()
        state = order[at]
        for move in moves(state, rules):
            seen.moves += 1
            # Under `stalls` a call that was under way lands after its worker was fenced: that is what it is about.
            landed = rules.stalls and move.by is not None and move.by.step == "checked"
            if CHANGES_NOTHING in watch and not landed and not _changes_nothing(state, move):
                return violated(CHANGES_NOTHING, at, normal(move.after))
            after = normal(move.after)
            to = known.get(after)
            if to is None:
                to = known[after] = len(order)
                order.append(after)
                parents.append(at)
                for what, holds in holding.items():
                    if not holds(after):
                        return violated(what, at, after)
                todo.append(to)
            edges_from.append(at)
            edges_to.append(to)
    seen.states = len(order)
    if PROGRESS in watch:
        trap = _trap(order, edges_from, edges_to)
        if trap is not None:
            return violated(PROGRESS, trap)
    return seen


def _story(state: State, way: list[State], rules: Rules) -> list[str]:
    """The names of the moves that lead along these normal forms, each worker under one name throughout."""
    told = []
    for target in way:
        name, state = next((m.name, m.after) for m in moves(state, rules) if normal(m.after) == target)
        told.append(name)
    return told


def _trap(order: list[State], edges_from: "array[int]", edges_to: "array[int]") -> int | None:
    """A state from which no way leads to the end of every incident."""
    back: list[list[int]] = [[] for _ in order]
    for one, other in zip(edges_from, edges_to, strict=True):
        back[other].append(one)
    good = bytearray(len(order))
    todo = [n for n, state in enumerate(order) if all(incident.phase == "done" for incident in state.incidents)]
    for n in todo:
        good[n] = 1
    while todo:
        for n in back[todo.pop()]:
            if not good[n]:
                good[n] = 1
                todo.append(n)
    return next((n for n in range(len(order)) if not good[n]), None)
