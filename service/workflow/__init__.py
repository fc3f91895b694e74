"""The state machine of an incident: transitions, store, runner, approvals, timers."""
