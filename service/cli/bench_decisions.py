"""`driftwarden bench policy`: the command around `bench_policy`."""

from typing import Any

import click

from driftwarden.service.cli.common import console, json_option, print_json


@click.command()
@click.option("--decisions", type=click.IntRange(10, 10_000_000), default=20_000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
@json_option
def policy(decisions: int, seed: int, as_json: bool) -> None:
    """Decisions a second with the full trace, on one core, beside a hand-written if-chain.

    Where they are installed, zen-engine and Cedar (cedarpy) decide the same facts by the same rules.

    \b
    Example:
      driftwarden bench policy --decisions 5000 --json
    """
    from driftwarden.service.cli.bench_policy import run

    document = run(decisions, seed)
    if as_json:
        print_json(document)
    else:
        _show(document)


def _show(document: dict[str, Any]) -> None:
    chain = document["yardsticks"]["if_chain_without_trace_per_second"]
    out = console()
    out.print(
        f"{document['per_second']:,} decisions a second of CPU, {document['rules']} rules each "
        f"(p50 {document['p50_us']} us, p99 {document['p99_us']} us)"
    )
    out.print(f"{document['to_json_per_second']:,} a second where each is written as a document as well")
    out.print(f"yardstick: {chain:,} a second by an if-chain that leaves no trace")
    zen = document["yardsticks"]["zen_engine"]
    if isinstance(zen, str):
        out.print(f"yardstick: zen-engine is {zen}")
    else:
        agrees = "agrees" if zen["agrees_with_if_chain"] else "does NOT agree"
        out.print(
            f"yardstick: {zen['per_second']:,} a second by zen-engine, {zen['with_trace_per_second']:,} with its trace;"
            f" it {agrees}"
        )
    cedar = document["yardsticks"]["cedar"]
    if isinstance(cedar, str):
        out.print(f"yardstick: Cedar (cedarpy) is {cedar}")
    else:
        agrees = "agrees" if cedar["agrees_with_if_chain"] else "does NOT agree"
        out.print(
            f"yardstick: {cedar['per_second']:,} a second by Cedar, {cedar['in_one_batch_per_second']:,} in one batch;"
            f" it {agrees}"
        )
    agrees = "agrees" if document["agrees_with_if_chain"] else "does NOT agree"
    out.print(f"the if-chain {agrees} on all {document['decisions']:,} outcomes: {document['outcomes']}")
