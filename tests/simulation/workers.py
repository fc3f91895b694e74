"""What a process of the simulation does: the real store and intake, walked through by a scripted worker."""

from typing import TYPE_CHECKING

from simulation.watching import LEASE_MS

from driftwarden.errors import Fenced
from driftwarden.service.workflow.store import Claim
from driftwarden.stream.intake import Intake

if TYPE_CHECKING:
    from simulation.cases import Case

NOW = "2026-11-20T09:00:00.000000Z"


class Worker:
    """A process: takes in, claims, walks, pumps timers, leaves signals; may be any of several at once."""

    def __init__(self, case: "Case", name: str) -> None:
        """Under a name that no other live one has."""
        self.case, self.name, self.rng = case, name, case.rng
        self.store = case.store()
        self.intake = Intake(case.lab.client, name, prefix=case.prefix, reclaim_after_ms=LEASE_MS)

    def work(self) -> None:
        """Until the case has no operation left."""
        case, moves = self.case, (self.take_in, self.claim, self.pump, self.wake, self.trim)
        while case.ops > 0:
            case.ops -= 1
            known, seen = case.watch.known, case.watch.seen
            waits = case.published.total() + len(case.reports) + case.garbage > seen["acknowledge"]
            weights = (6 if waits else 0.5, 9 if seen["opened"] else 0.5, 8 if known.parked else 0.5, 1, 0.3)
            self.rng.choices(moves, weights)[0]()

    def take_in(self) -> None:
        """Admit what waits, reports by themselves, drifts together."""
        deliveries = self.intake.read(self.rng.randint(1, 3))
        drifts = [one for one in deliveries if one.event.kind != "performance"]
        for one in deliveries:
            if one.event.kind == "performance":
                self.store.record_performance(one.entry_id, one.event)
        if drifts:
            groups = ("upstream",) if self.case.grouped else ()
            self.store.admit_many(drifts, now=NOW, groups=lambda event: groups)

    def pump(self) -> None:
        """Fire the timers that are due; a timer is only as interesting as what comes between it and its activation."""
        self.case.pass_ms(self.rng.choice((0, 2_000, 2_000, 40_000)))
        self.store.pump_timers(limit=self.rng.choice((1, 100)))

    def wake(self) -> None:
        """Leave a signal for some incident."""
        found = sorted(self.case.watch.known.fence)
        if found:
            self.store.wake(self.rng.choice(found), "signal", len(self.case.watch.known.sent))

    def trim(self) -> None:
        """The backstop."""
        self.store.trim()

    def claim(self) -> None:
        """Take an incident up and walk it; whoever was replaced stops."""
        claim = self.store.claim(self.name, block_ms=0, lease_ms=LEASE_MS)
        if claim is None:
            return
        try:
            self.walk(claim)
        except Fenced:
            return

    def walk(self, claim: Claim) -> None:
        """Steps of an incident, as far as this worker goes."""
        rng, step = self.rng, 0
        while True:
            step += 1
            if rng.random() < 0.15:
                self.store.heartbeat(claim)
            if claim.state == "executing":
                self.effect(claim)
            if claim.state in {"received", "triaged"} and rng.random() < 0.06:
                self.store.hand_back(claim, after_s=rng.choice((0, 0, 5)))
                break
            state, disposition = self.onwards(claim, last=step > 3)
            weighed = len(claim.events)
            if weighed > 1 and rng.random() < 0.3:
                weighed = max(1, weighed - 1)
            self.case.watch.will_handle(claim)
            old, claim = claim, self.store.commit(
                claim,
                state=state,
                doc={"step": claim.version},
                disposition=disposition,  # type: ignore[arg-type]
                due_s=rng.choice((None, 1, 1, 30)) if disposition in {"park", "release"} else None,
                accepting=state in {"received", "triaged", "waiting"},
                handled=claim.signals,
                weighed=weighed,
                split=state == "executing",
            )  # fmt: skip
            if disposition != "go":
                if rng.random() < 0.25:
                    self.store.heartbeat(old)  # its heart beats once more: Fenced
                break

    def onwards(self, claim: Claim, *, last: bool) -> tuple[str, str]:
        """Where it goes from here."""
        rng, state = self.rng, claim.state
        if state in {"failed", "closed", "resolved"}:
            return state, "finish"
        if state == "executing":
            return rng.choice(
                (("verifying", "release"), ("resolved", "finish"), ("resolved", "finish"), ("executing", "park"))
            )
        if state == "verifying":
            return rng.choice((("resolved", "finish"), ("verifying", "release")))
        if last:
            return state, "park"
        return rng.choice((
            ("triaged", "go"), ("triaged", "go"), ("triaged", "park"), ("executing", "go"), ("executing", "go"),
            ("executing", "go"), ("waiting", "release"), ("closed", "finish"),
        ))  # fmt: skip

    def effect(self, claim: Claim) -> None:
        """Look up by the key, check the lease, call; nothing comes between the check's answer and the call."""
        sink = self.case.sink
        if claim.incident not in sink:
            self.store.heartbeat(claim)
            sink.append(claim.incident)
            self.case.trace.append(f"{self.name}: effect of {claim.incident}")
            self.case.watch.seen["effect"] += 1

    def claim_and_end(self) -> bool:
        """Take one up and finish it at once; False: there was none."""
        claim = self.store.claim(self.name, block_ms=0, lease_ms=LEASE_MS)
        if claim is None:
            return False
        if claim.state == "executing":
            self.effect(claim)
        ends = {"executing": "resolved", "verifying": "resolved", "failed": "failed", "resolved": "resolved"}
        state = ends.get(claim.state, "closed")
        self.case.watch.will_handle(claim)
        self.store.commit(claim, state=state, doc={}, disposition="finish", accepting=False, handled=claim.signals)
        return True
