"""A swarm in one process, with everything that networks do to it: nothing is lost, and ledgers end equal."""

import msgspec
from click.testing import CliRunner

from node.simulation import Plan, main, simulate

ROUGH = Plan(
    nodes=30, authors=10, entries=6, seed=1, duration_s=40.0, loss=0.2, churn=0.3, partition_s=15.0
)  # fmt: skip


def test_loss_churn_and_a_partition_that_heals_lose_nothing_and_the_same_seed_repeats_it_all() -> None:
    outcome = simulate(ROUGH)
    assert outcome.delivered == outcome.expected == 10 * 6 * 29
    assert outcome.equal
    assert 0 < outcome.by_sync < outcome.delivered
    assert max(outcome.main_delays) > ROUGH.partition_s / 2  # what was stated while they were parted had to wait
    again = simulate(ROUGH)
    assert msgspec.structs.replace(again, cpu_s=0.0) == msgspec.structs.replace(outcome, cpu_s=0.0)


def test_on_a_good_network_gossip_takes_less_than_a_heartbeat() -> None:
    outcome = simulate(Plan(nodes=20, authors=4, entries=4, seed=2, duration_s=20.0))
    assert outcome.delivered == outcome.expected
    assert max(outcome.main_delays) < 1.0
    assert outcome.copies_per_message < 10
    other = simulate(Plan(nodes=20, authors=4, entries=4, seed=3, duration_s=20.0))
    assert other.digest != outcome.digest


def test_the_command_prints_what_came_of_it() -> None:
    done = CliRunner().invoke(main, ["--nodes", "6", "--authors", "2", "--entries", "2", "--duration", "10"])
    assert done.exit_code == 0, done.output
    assert "100.00% of 20" in done.output
    assert "all equal" in done.output
    refused = CliRunner().invoke(main, ["--nodes", "6", "--authors", "7"])
    assert refused.exit_code == 2
    assert "no more authors than nodes" in refused.output
