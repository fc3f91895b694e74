"""Globs of models: `*` is any run of characters, `?` any one; case-sensitive; nothing else is special."""

from collections.abc import Callable


def matches(pattern: str, name: str) -> bool:
    """Does the glob match the whole name? Time grows with the product of the lengths, never beyond."""
    at = star = mark = 0
    seen_star = False
    position = 0
    while position < len(name):
        if at < len(pattern) and pattern[at] == "*":
            seen_star, star, mark = True, at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[position]):
            at += 1
            position += 1
        elif seen_star:
            mark += 1
            at, position = star + 1, mark
        else:
            return False
    return all(char == "*" for char in pattern[at:])


def compile_globs(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """A function that says whether any of the globs matches."""
    if any(set(pattern) == {"*"} for pattern in patterns):
        return lambda name: True
    exact = frozenset(pattern for pattern in patterns if "*" not in pattern and "?" not in pattern)
    prefixed = frozenset(
        pattern for pattern in patterns if pattern.find("*") == len(pattern) - 1 and "?" not in pattern
    )
    rest = tuple(pattern for pattern in patterns if pattern not in exact | prefixed)
    prefixes = tuple(pattern[:-1] for pattern in prefixed)
    if rest:
        return lambda name: name in exact or name.startswith(prefixes) or any(matches(glob, name) for glob in rest)
    return lambda name: name in exact or name.startswith(prefixes)


def covers(wide: str, narrow: str) -> bool:
    """Does every name that `narrow` matches match `wide` too? May say no where the answer is yes, never the other way."""
    reach = {0}
    for char in narrow:
        reach = _close(wide, reach)
        if char == "*":
            reach = {at for at in reach if at < len(wide) and wide[at] == "*"}
        else:
            reach = {
                at if wide[at] == "*" else at + 1 for at in reach if at < len(wide) and wide[at] in ("*", "?", char)
            }
        if not reach:
            return False
    return len(wide) in _close(wide, reach)


def _close(wide: str, reach: set[int]) -> set[int]:
    closed = set(reach)
    for at in reach:
        step = at
        while step < len(wide) and wide[step] == "*":
            step += 1
            closed.add(step)
    return closed
