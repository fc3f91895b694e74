"""The command line: one file per command group; a command is parse, call, print."""
