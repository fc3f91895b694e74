"""Reading a policy document strictly: whatever is not exactly of the contract's form is refused with its line."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from driftwarden.policies.cron import Cron, parse_cron
from driftwarden.policies.document import (
    API_VERSION,
    GENERATED_RULES,
    MATCH_FIELDS,
    OPERATORS,
    BlastRadius,
    CircuitBreaker,
    Concurrency,
    Cooldown,
    CostLimits,
    Else,
    Exemption,
    Holidays,
    Limits,
    Match,
    PolicyDocument,
    Rate,
    RateLimits,
    Requirement,
    Schedule,
    Span,
    Terms,
    Tier,
    Window,
)
from driftwarden.policies.facts import ACTIONS, FACTS, ROOT_CAUSES, Kind, Shape, calendar_date, moment
from driftwarden.policies.reading import Node
from driftwarden.policies.zones import holiday_countries, zone


def read_policy(root: Node) -> PolicyDocument:
    """Read the document; whatever is not exactly of the contract's form raises BadInput with its line."""
    top = root.fields(("apiVersion", "kind", "metadata", "spec"))
    top["apiVersion"].choice((API_VERSION,))
    top["kind"].choice(("RemediationPolicy",))
    metadata = top["metadata"].fields(("name", "revision"))
    spec = top["spec"].fields(("enforcement",), ("timeZone", "tiers", "require", "limits", "windows", "exceptions"))
    zone_name = _zone(spec["timeZone"]) if "timeZone" in spec else "UTC"
    document = PolicyDocument(
        name=metadata["name"].identifier(),
        revision=metadata["revision"].text("a revision as quoted text"),
        enforcement=spec["enforcement"].choice(("enforce", "dryRun", "halt")),  # type: ignore[arg-type]
        time_zone=zone_name,
        tiers=tuple(_tier(node) for node in _optional_items(spec.get("tiers"))),
        require=tuple(_requirement(node) for node in _optional_items(spec.get("require"))),
        limits=_limits(spec["limits"]) if "limits" in spec else Limits(),
        windows=tuple(_window(node, zone_name) for node in _optional_items(spec.get("windows"))),
        exceptions=tuple(_exemption(node) for node in _optional_items(spec.get("exceptions"))),
        raw=root.value,
        where=root.where,
    )
    _check_names(document, spec)
    return document


def _optional_items(node: Node | None) -> list[Node]:
    return [] if node is None else list(node.items(empty=True))


def _zone(node: Node) -> str:
    name = node.text("an IANA time zone, like `Europe/Amsterdam`")
    try:
        zone(name)
    except ValueError:
        node.refuse("an IANA time zone, like `Europe/Amsterdam`")
    return name


def _check_names(document: PolicyDocument, spec: Mapping[str, Node]) -> None:
    _once(spec.get("tiers"), "name", ())
    _once(spec.get("require"), "id", GENERATED_RULES)
    _once(spec.get("windows"), "id", ())
    _once(spec.get("exceptions"), "id", ())
    tiers = {tier.name for tier in document.tiers}
    for section in ("require", "windows", "limits"):
        if section in spec:
            _check_tiers(spec[section], tiers)
    known = {*document.rule_ids(), *GENERATED_RULES}
    for node in _optional_items(spec.get("exceptions")):
        for rule in node.fields(("id", "rules", "expiresAt", "reason"), ("models",))["rules"].items():
            if rule.value not in known:
                rule.refuse("the id of a rule of this policy")


def _check_tiers(node: Node, known: set[str]) -> None:
    if isinstance(node.value, list):
        for item in node.items(empty=True):
            _check_tiers(item, known)
    elif isinstance(node.value, dict):
        for key, child in node.fields(tuple(node.value)).items():
            if key == "tiers":
                for name in child.items():
                    if name.value not in known:
                        name.refuse("a tier of this policy: " + (", ".join(sorted(known)) or "there is none"))
            elif isinstance(child.value, dict):
                _check_tiers(child, known)


def _once(section: Node | None, key: str, taken: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for node in _optional_items(section):
        field = node.fields(tuple(node.value))[key]
        if field.value in taken:
            field.refuse("an id that no generated rule has")
        if field.value in seen:
            field.refuse(f"each {key} once")
        seen.add(field.value)


def _match(fields: Mapping[str, Node]) -> Match:
    def texts(key: str, allowed: tuple[str, ...] | None = None) -> tuple[str, ...] | None:
        if key not in fields:
            return None
        return fields[key].texts(None if allowed is None else lambda node: node.choice(allowed))

    return Match(
        models=texts("models"),
        tiers=texts("tiers"),
        actions=texts("actions", ACTIONS),
        environments=texts("environments"),
        root_causes=texts("rootCauses", ROOT_CAUSES),
    )


def _otherwise(fields: Mapping[str, Node]) -> Else:
    return fields["else"].choice(("escalate", "monitor")) if "else" in fields else "escalate"  # type: ignore[return-value]


def _tier(node: Node) -> Tier:
    fields = node.fields(("name", "allow"), ("approvals", "models", "environments", "actions", "rootCauses"))
    return Tier(
        name=fields["name"].identifier(),
        match=_match(fields),
        allow=fields["allow"].texts(lambda item: item.choice(ACTIONS), empty=True),
        approvals=_terms(fields["approvals"]) if "approvals" in fields else None,
        place=node.place,
    )


def _terms(node: Node) -> Terms:
    fields = node.fields(("required", "from", "expiresAfter"))
    return Terms(
        required=fields["required"].count(low=1, high=1000),
        groups=fields["from"].texts(empty=True),
        expires_after=fields["expiresAfter"].duration(),
    )


def _requirement(node: Node) -> Requirement:
    fields = node.fields(("id", "fact"), (*OPERATORS, "else", *MATCH_FIELDS))
    fact = fields["fact"].choice(tuple(path for path, kind in FACTS.items() if kind.shape is not Shape.OTHER))
    given = [operator for operator in OPERATORS if operator in fields]
    if len(given) != 1:
        node.refuse("exactly one of: " + ", ".join(OPERATORS), got=", ".join(given) or "none")
    operator = given[0]
    operand, written = _operand(fields[operator], operator, FACTS[fact])
    return Requirement(
        id=fields["id"].identifier(),
        fact=fact,
        operator=operator,
        operand=operand,
        written=written,
        otherwise=_otherwise(fields),
        match=_match(fields),
        place=node.place,
    )


def _operand(node: Node, operator: str, kind: Kind) -> tuple[Any, str]:
    if operator in {"atLeast", "atMost"}:
        if kind.shape in {Shape.TEXT, Shape.FLAG}:
            node.refuse(f"`equals`, `in` or `notIn`: the fact is {kind.noun}", got=operator)
        return _operand_value(node, kind), str(node.value)
    if operator == "equals":
        return _operand_value(node, kind), _written(node.value)
    values = [_operand_value(item, kind) for item in node.items()]
    return frozenset(values), ", ".join(_written(value) for value in node.value)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _operand_value(node: Node, kind: Kind) -> Any:
    if kind.shape is Shape.NUMBER:
        return node.decimal(low=None, noun=kind.noun)
    if kind.shape is Shape.FLAG:
        if not isinstance(node.value, bool):
            node.refuse("true or false")
        return node.value
    if kind.shape is Shape.TEXT:
        return node.choice(kind.words) if kind.words else node.text(kind.noun)
    found = calendar_date(node.value) if kind.shape is Shape.DATE else moment(node.value)
    if found is None:
        node.refuse("a date as `YYYY-MM-DD`" if kind.shape is Shape.DATE else kind.noun)
    return found


def _limits(node: Node) -> Limits:
    fields = node.fields((), ("costUSD", "rate", "cooldown", "concurrency", "circuitBreaker", "blastRadius"))
    return Limits(
        cost_usd=_costs(fields["costUSD"]) if "costUSD" in fields else None,
        rate=_rates(fields["rate"]) if "rate" in fields else None,
        cooldown=_cooldown(fields["cooldown"]) if "cooldown" in fields else None,
        concurrency=_concurrency(fields["concurrency"]) if "concurrency" in fields else None,
        circuit_breaker=_breaker(fields["circuitBreaker"]) if "circuitBreaker" in fields else None,
        blast_radius=_radius(fields["blastRadius"]) if "blastRadius" in fields else None,
    )


def _costs(node: Node) -> CostLimits:
    fields = node.fields((), ("perAction", "perDay", "perModelPerDay", *MATCH_FIELDS))

    def cap(key: str) -> Decimal | None:
        return fields[key].decimal(noun="an amount of money") if key in fields else None

    return CostLimits(cap("perAction"), cap("perDay"), cap("perModelPerDay"), _match(fields), node.place)


def _rates(node: Node) -> RateLimits:
    fields = node.fields((), ("perModel", "global", "else", *MATCH_FIELDS))

    def rate(key: str) -> Rate | None:
        if key not in fields:
            return None
        inner = fields[key].fields(("max", "window"))
        return Rate(inner["max"].count(), inner["window"].duration())

    return RateLimits(rate("perModel"), rate("global"), _otherwise(fields), _match(fields), node.place)


def _cooldown(node: Node) -> Cooldown:
    fields = node.fields((), ("perModel", "afterFailure", "else", *MATCH_FIELDS))
    if "perModel" not in fields and "afterFailure" not in fields:
        node.refuse("the field `perModel` or `afterFailure`", got="nothing")
    return Cooldown(
        per_model=fields["perModel"].duration(zero=True) if "perModel" in fields else timedelta(0),
        after_failure=fields["afterFailure"].duration(zero=True) if "afterFailure" in fields else None,
        otherwise=_otherwise(fields),
        match=_match(fields),
        place=node.place,
    )


def _concurrency(node: Node) -> Concurrency:
    fields = node.fields((), ("perModel", "global", "else", *MATCH_FIELDS))
    return Concurrency(
        per_model=fields["perModel"].count() if "perModel" in fields else None,
        everywhere=fields["global"].count() if "global" in fields else None,
        otherwise=_otherwise(fields),
        match=_match(fields),
        place=node.place,
    )


def _breaker(node: Node) -> CircuitBreaker:
    fields = node.fields(("failurePercent", "minRuns", "window"), ("else", *MATCH_FIELDS))
    return CircuitBreaker(
        failure_percent=fields["failurePercent"].decimal(noun="a percentage"),
        min_runs=fields["minRuns"].count(low=1),
        window=fields["window"].duration(),
        otherwise=_otherwise(fields),
        match=_match(fields),
        place=node.place,
    )


def _radius(node: Node) -> BlastRadius:
    fields = node.fields((), ("trafficPercentAtMost", "modelsAtMost", "else", *MATCH_FIELDS))
    traffic = "trafficPercentAtMost"
    return BlastRadius(
        traffic_percent_at_most=fields[traffic].decimal(noun="a percentage") if traffic in fields else None,
        models_at_most=fields["modelsAtMost"].count() if "modelsAtMost" in fields else None,
        otherwise=_otherwise(fields),
        match=_match(fields),
        place=node.place,
    )


def _window(node: Node, default_zone: str) -> Window:
    fields = node.fields(
        ("id", "kind"),
        ("schedule", "duration", "until", "from", "to", "holidays", "timeZone", *MATCH_FIELDS),
    )
    return Window(
        id=fields["id"].identifier(),
        kind=fields["kind"].choice(("deny", "allow")),  # type: ignore[arg-type]
        when=_when(node, fields),
        zone=_zone(fields["timeZone"]) if "timeZone" in fields else default_zone,
        match=_match(fields),
        place=node.place,
    )


def _when(node: Node, fields: Mapping[str, Node]) -> Schedule | Span | Holidays:
    given = {key for key in ("schedule", "duration", "until", "from", "to", "holidays") if key in fields}
    if given in ({"schedule", "duration"}, {"schedule", "until"}):
        return Schedule(
            cron=_cron(fields["schedule"]),
            duration=fields["duration"].duration() if "duration" in fields else None,
            until_minute=_clock_minute(fields["until"]) if "until" in fields else None,
        )
    if given == {"from", "to"}:
        return Span(_bound(fields["from"]), _bound(fields["to"]))
    if given == {"holidays"}:
        inner = fields["holidays"].fields(("country",), ("subdivision",))
        countries = holiday_countries()
        country = inner["country"].text("a country code, like `NL`")
        if country not in countries:
            inner["country"].refuse("a country code with known holidays, like `NL`")
        if "subdivision" in inner and inner["subdivision"].text() not in countries[country]:
            inner["subdivision"].refuse("one of: " + (", ".join(countries[country]) or "none is known"))
        return Holidays(country, inner["subdivision"].value if "subdivision" in inner else None)
    return node.refuse(
        "`schedule` with `duration` or `until`, or `from` and `to`, or `holidays`", got=", ".join(sorted(given))
    )


def _cron(node: Node) -> Cron:
    expected = "five cron fields: minute, hour, day of month (`L`: the last), month, day of week"
    text = node.text(expected)
    try:
        return parse_cron(text)
    except ValueError:
        node.refuse(expected)


def _clock_minute(node: Node) -> int:
    text = node.value
    if isinstance(text, str) and len(text) == 5 and text[2] == ":" and (text[:2] + text[3:]).isascii():
        hour, minute = text[:2], text[3:]
        if hour.isdigit() and minute.isdigit() and int(hour) < 24 and int(minute) < 60:
            return int(hour) * 60 + int(minute)
    return node.refuse('a quoted time of day, like "17:00"')


def _bound(node: Node) -> datetime:
    expected = "a date and time, like `2026-12-18T18:00:00`, with an offset or in the policy's zone"
    if not isinstance(node.value, str):
        node.refuse(expected)
    with_zone = moment(node.value)
    if with_zone is not None:
        return with_zone
    if moment(node.value + "Z") is None:
        node.refuse(expected)
    return datetime.fromisoformat(node.value.upper())


def _exemption(node: Node) -> Exemption:
    fields = node.fields(("id", "rules", "expiresAt", "reason"), ("models",))
    expires_at = moment(fields["expiresAt"].value)
    if expires_at is None:
        fields["expiresAt"].refuse("an RFC 3339 time with a zone, like `2026-12-01T00:00:00Z`")
    return Exemption(
        id=fields["id"].identifier(),
        rules=fields["rules"].texts(),
        models=fields["models"].texts() if "models" in fields else None,
        expires_at=expires_at,
        reason=fields["reason"].text("a reason"),
        place=node.place,
    )
