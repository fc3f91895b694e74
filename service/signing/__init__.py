"""Signed answers of people: SSH signatures, the keys that make them, and the list of who may answer for which group."""
