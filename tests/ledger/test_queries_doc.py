"""docs/queries.md names every field that there is, and its SQL runs."""

import re
from pathlib import Path
from typing import Any

import examples
import histories
import pytest

from ledger import queries
from node import transfers
from policy import transfer

TEXT = Path(__file__).parents[2].joinpath("docs", "queries.md").read_text()
RECORDS: dict[str, tuple[Any, set[str]]] = {  # section: record, and what the command adds to it
    "Log line": (queries.LogLine, set()),
    "Discovery": (queries.DiscoveryRow, set()),
    "Account": (queries.DiscoveryAccount, {"statement"}),
    "Pair": (queries.PairRow, set()),
    "Trial": (queries.TrialRow, set()),
    "Effects by hardware": (queries.HardwareEffects, set()),
    "Effect": (queries.Effect, set()),
    "Attestation": (queries.AttestationRow, set()),
    "Adoption": (queries.AdoptionRow, set()),
    "Retraction": (queries.RetractionRow, set()),
    "Lineage": (queries.Lineage, {"origin", "origin_is_baseline"}),
    "Hit": (queries.Hit, set()),
    "Ranked": (queries.Ranked, set()),
    "Statistics": (queries.Stats, set()),
    "Peer": (queries.Peer, set()),
    "Transfers": (transfers.Transfers, set()),
    "Direction": (transfer.Direction, set()),
    "Carried discovery": (transfers.Carrying, set()),
    "Carried": (transfers.Carried, set()),
    "Attempt": (transfer.Attempt, set()),
    "On hardware": (transfer.OnHardware, set()),
    "Measured": (transfer.Measured, set()),
    "Interval": (transfer.Interval, set()),
}
SECTIONS = dict(re.findall(r"^### ([^\n]+)\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL))
STATEMENTS = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)


def test_every_record_has_its_section() -> None:
    assert list(SECTIONS) == list(RECORDS)


@pytest.mark.parametrize("section", RECORDS)
def test_every_field_has_its_line(section: str) -> None:
    record, more = RECORDS[section]
    lines = re.findall(r"^\| (`[^|]+`) \|", SECTIONS[section], re.MULTILINE)
    named = [name for line in lines for name in re.findall(r"`(\w+)`", line)]
    assert set(named) == {*record.__struct_fields__, *more}
    assert len(named) == len(set(named))


@pytest.mark.parametrize("sql", STATEMENTS, ids=range(len(STATEMENTS)))
def test_the_sql_runs(sql: str, tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    one, two = examples.author(store, 1), examples.author(store, 2)
    found = histories.state_hypothesis(one, "a" * 64, "b" * 64, "a small batch")
    histories.state_measured(two, found, "confirmed", [(3.0, 2.9)] * 2)
    histories.state_hypothesis(two, "b" * 64, "c" * 64, "small")
    histories.state_skill(two, "Batches", "Small ones need no warm-up.")
    assert store.db.execute(sql.replace("bafkreic3", found.id)).fetchall()
