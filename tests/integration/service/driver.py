"""One service process that kills itself (SIGKILL) at a named point, or works until everything is at rest."""

import functools
import os
import signal
import sys

POINT = sys.argv[1]


def tell(where: str) -> None:
    """Die here, as a process that the kernel kills."""
    if where == POINT:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Take in what waits, and work."""
    from driftwarden.actions import catalogue
    from driftwarden.service.bootstrap import open_service, read_settings
    from driftwarden.service.workflow.process import ServiceProcess
    from driftwarden.service.workflow.runner import Worker
    from driftwarden.service.workflow.transitions import TERMINAL, State

    catalogue.build_actions = functools.partial(catalogue.build_actions, on_step=tell)
    with open_service(read_settings(), sandbox_slots=1) as service:
        name = service.process_name()
        intake = service.intake(name)
        process = ServiceProcess(service.parts, service.store, intake, name=name, workers=0)
        worker = Worker(service.parts, service.store, name, fail_point=tell)
        rest = TERMINAL | {State.AWAITING_APPROVAL, State.VERIFYING}
        while True:
            for delivery in intake.read(10):
                process.admit(delivery.entry_id, delivery.event)
            states = service.store.counts()
            if not worker.work_once(block_ms=200) and states and set(states) <= rest:
                print(f"at rest: {states}; {[one.doc.get('problem') for one in service.store.list()]}", file=sys.stderr)  # noqa: T201
                return


main()
