"""The roof: the workflow, the composition root, the command line."""
