"""Runbooks are read strictly: every fault is named with its line."""

import pytest

from driftwarden.errors import BadInput
from driftwarden.knowledge import parse_runbook

GOOD = """---
id: our-boiler
title: "The boiler: after maintenance"
root_causes: [stuck_values, missing_values]
actions: [notify]
kinds: [data_quality]
revision: 3
---

# The boiler

## What it looks like
Flat for hours.

```
## not a heading
```

## Remedies
Call the fitter.
"""


def test_a_good_runbook_is_read_whole() -> None:
    """Front matter, sections, and a fenced block whose content is no heading."""
    runbook = parse_runbook(GOOD, where="b.md")
    assert (runbook.id, runbook.title, runbook.revision) == ("our-boiler", "The boiler: after maintenance", 3)
    assert runbook.root_causes == ("stuck_values", "missing_values")
    assert [section.heading for section in runbook.sections] == ["What it looks like", "Remedies"]
    assert "## not a heading" in runbook.sections[0].text
    assert runbook.source == GOOD


def test_windows_line_ends_and_a_byte_order_mark_change_nothing() -> None:
    """The same text from another editor has the same digest."""
    assert (
        parse_runbook("\ufeff" + GOOD.replace("\n", "\r\n"), where="b.md").digest
        == parse_runbook(GOOD, where="b").digest
    )


@pytest.mark.parametrize(
    ("old", "new", "line", "word"),
    [
        ("---\nid", "id", 1, "front matter"),
        ("revision: 3\n---\n", "revision: 3\n", 1, "no end"),
        ("our-boiler", "Our Boiler", 2, "hyphens"),
        ('"The boiler: after maintenance"', "The boiler: after", 3, "not YAML"),
        ('"The boiler: after maintenance"', "[a]", 3, "`title`"),
        ("missing_values]", "missing_value]", 4, "missing_value"),
        ("[stuck_values, missing_values]", "stuck_values", 4, "a list"),
        ("[notify]", "[]", 5, "at least one"),
        ("[notify]", "[delete]", 5, "delete"),
        ("[data_quality]", "[quality]", 6, "quality"),
        ("revision: 3", "revision: three", 7, "whole number"),
        ("revision: 3", "revision: true", 7, "whole number"),
        ("revision: 3", "revision: 3\nrevision: 4", 8, "duplicate"),
        ("revision: 3", "revision: 3\nowner: me", 8, "owner"),
        ("revision: 3\n", "", 1, "revision"),
        ("# The boiler", "Hello", 10, "before the first section"),
    ],
)
def test_a_fault_is_named_with_its_line(old: str, new: str, line: int, word: str) -> None:
    """One line: the file, the line, what was got or expected."""
    with pytest.raises(BadInput) as caught:
        parse_runbook(GOOD.replace(old, new, 1), where="b.md")
    message = caught.value.diagnostics()
    assert message.startswith(f"b.md:{line}: ")
    assert word in message


def test_a_runbook_without_text_or_of_great_length_is_refused() -> None:
    """Front matter alone is no runbook; neither is a megabyte."""
    head = GOOD.split("# The boiler")[0]
    with pytest.raises(BadInput, match="no text"):
        parse_runbook(head, where="b.md")
    with pytest.raises(BadInput, match="too long"):
        parse_runbook(GOOD + "x" * 70_000, where="b.md")
