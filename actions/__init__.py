"""What can be done: each action with estimate, precheck, lookup, execute and undo, against the real registry."""
