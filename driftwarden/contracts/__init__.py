"""The domain's types and ports: values that travel between the rooms, and what the rooms ask of each other."""
