"""`waggle gate`: in which state the node is and why, and the owner's word on it."""

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from ledger.envelope import peer_id
from ledger.queries import governing
from ledger.store import Store
from node import status, story
from node.charter import Charter
from node.errors import UserError
from node.governance import REASON_CHARS_MAX, Observed, Orders, read_orders, write_orders
from node.home import Home
from node.options import echo_json, home_option, json_option
from node.proposers import usd_spent
from policy.gate import FORBIDDEN, Reading, State, read

AUTO = "auto"


class _GateGroup(click.Group):
    """`waggle gate FREEZE` as well as `waggle gate show`: a state is a command of its own."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments and arguments[0] in (*(state.value for state in State), AUTO):
            arguments = ["set", *arguments]
        elif arguments and arguments[0].upper() in {state.value for state in State}:
            raise UserError(
                f"write {arguments[0].upper()} in capitals: the states are {', '.join(s.value for s in State)}."
            )
        return super().resolve_command(context, arguments)


@click.group(
    "gate", cls=_GateGroup, invoke_without_command=True, subcommand_metavar="[RUN|THROTTLE|FREEZE|STOP|auto|seen]"
)
@home_option
@json_option
@click.pass_context
def gate_group(context: click.Context, home_path: Path, as_json: bool) -> None:
    """Whether the node may go on, by which facts; and your word on it.

    waggle gate                          the state, each fact beside its threshold, and what is forbidden

    waggle gate FREEZE --reason TEXT     command a state (RUN, THROTTLE, FREEZE, STOP), until you command otherwise

    waggle gate auto                     leave it to the rules again

    waggle gate seen                     somebody has looked at the adoptions so far
    """
    if context.invoked_subcommand is None:
        _show(Home(home_path), as_json)


@gate_group.command("set", hidden=True)
@click.argument("state", type=click.Choice([*(state.value for state in State), AUTO]))
@click.option("--reason", default="", metavar="TEXT", help="For others to read, in the ledger. Needed but for auto.")
@home_option
def set_command(state: str, reason: str, home_path: Path) -> None:
    """Command a state, or leave the gate to the rules again."""
    home = _initialised(home_path)
    if state != AUTO and not reason.strip():
        raise UserError(f'say why, for who reads the ledger later: waggle gate {state} --reason "…"')
    if len(reason) > REASON_CHARS_MAX:
        raise UserError(f"a reason of {len(reason)} characters; {REASON_CHARS_MAX} are enough.")
    orders = _orders(home)
    write_orders(
        home.gate_file,
        msgspec.structs.replace(orders, command=None if state == AUTO else state, reason=reason.strip()),
    )
    what = "the gate is left to the rules" if state == AUTO else f"the gate is commanded to {state}"
    click.echo(f"{what}; {_takes_effect(home)}")


@gate_group.command("seen")
@home_option
def seen_command(home_path: Path) -> None:
    """Say that somebody has looked at what the node has adopted so far."""
    home = _initialised(home_path)
    store = home.store(home.challenge())
    orders, own = _orders(home), peer_id(home.key().public_key())
    unseen = governing.adoptions_after(store, own, orders.seen)
    write_orders(home.gate_file, msgspec.structs.replace(orders, seen=store.clock()))
    click.echo(f"{unseen} adoptions are seen now; {_takes_effect(home)}")


def _initialised(path: Path) -> Home:
    home = Home(path)
    home.challenge()  # raises, with what to do
    return home


def _orders(home: Home) -> Orders:
    """What was commanded before; a spoilt file is replaced."""
    try:
        return read_orders(home.gate_file)
    except ValueError as error:
        click.echo(f"note: {story.plain(str(error))}; it is written anew", err=True)
        return Orders()


def _takes_effect(home: Home) -> str:
    return "the running node follows within seconds" if home.is_locked() else "it holds from the node's next start on"


def _show(home: Home, as_json: bool) -> None:
    challenge = home.challenge()
    store = home.store(challenge)
    charter, orders = Charter(store, challenge), _orders(home)
    own = peer_id(home.key().public_key())
    now, last = status.read(home.status_file), governing.last_gate(store, own)
    running = home.is_locked() and now is not None and now.gate is not None
    readings = now.gate.readings if running and now is not None and now.gate is not None else _measured(
        home, store, charter, own, orders
    )  # fmt: skip
    state = State.RUN if last is None else State(last.state)
    facts: dict[str, Any] = {
        "running": running,
        "state": state.value,
        "commanded": last is not None and last.commanded,
        "reason": "" if last is None else last.reason,
        "since": None if last is None else last.recorded_at,
        "orders": orders,
        "constitution": charter.term().constitution,
        "forbidden": {action.value: why for action, why in FORBIDDEN[state].items()},
        "readings": readings,
    }
    if as_json:
        echo_json(facts)
        return
    by = "commanded" if facts["commanded"] else "by the rules"
    since = "the node has not run yet" if last is None else f"{by}, since {last.recorded_at}: {last.reason}"
    click.echo(story.plain(f"gate       {state.value}  ({since})"))
    if orders.command != (state.value if facts["commanded"] else None):
        click.echo(story.plain(f"ordered    {orders.command or AUTO}  {orders.reason}; {_takes_effect(home)}"))
    for action, why in facts["forbidden"].items():
        click.echo(f"forbids    {action}: {why}")
    for one in readings:
        click.echo(story.plain(_line(one)))


def _measured(home: Home, store: Store, charter: Charter, own: str, orders: Orders) -> list[Reading]:
    limits = charter.limits()
    observed = Observed(home, store, own, money_today=lambda: usd_spent(home.accounts_file, time.time()))
    return list(read(observed.facts(limits.recent_s, orders.seen), limits))


def _line(one: Reading) -> str:
    """One rule: what is measured, at what it takes hold, and whether it does."""
    value = "too little is known" if one.value is None else f"{one.value:.6g}"
    verdict = f"holds; lets go at {one.release:.6g}: {one.reason}" if one.holds else "ok"
    return f"{one.state.value:<9}  {one.fact:<32} {value:>20}  at {one.threshold:<12.6g} {verdict}"
