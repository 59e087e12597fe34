"""What a node keeps of its peers beside the ledger, in the same file: who was reached where, and the owner's rules.

Local state, never shared and no part of the truth: losing both tables loses addresses and rules, and nothing else.
The command line writes rules while a node runs, which sees them by `changed`.
"""

from gossip.errors import PeerFault
from gossip.limits import RULES_MAX
from gossip.peerbook import Known
from gossip.records import Record, open_record
from gossip.rules import Rule
from ledger.errors import LedgerError
from ledger.store import Store
from ledger.tables import transaction


class PeerStore:
    """The two tables, in the ledger's own connection."""

    def __init__(self, store: Store) -> None:
        self._store, self._db, self._challenge = store, store.db, store.challenge
        self._seen = -1

    def known(self) -> list[Known]:
        """All peers, with those that an older version remembered by address alone."""
        sql = """SELECT p.peer, NULL AS record, p.peer AS source, p.address, 0 AS reached_at FROM peers AS p
                 WHERE p.peer NOT IN (SELECT peer FROM peer_records)
                 UNION ALL SELECT peer, record, source, address, reached_at FROM peer_records"""
        return [
            Known(peer=peer, record=self._opened(record), source=source, address=address, reached_at=reached_at)
            for peer, record, source, address, reached_at in self._db.execute(sql)
        ]

    def _opened(self, record: bytes | None) -> Record | None:
        try:
            return None if record is None else open_record(record, self._challenge)
        except PeerFault:
            return None  # kept by a version that believed more

    def keep(self, changes: list[tuple[str, Known | None]]) -> None:
        """Write what `Book.take_changes` gave."""
        if not changes:
            return
        with self._store.batch(refetchable=True):
            for peer, known in changes:
                if known is None:
                    self._db.execute("DELETE FROM peer_records WHERE peer = ?", (peer,))
                    self._db.execute("DELETE FROM peers WHERE peer = ?", (peer,))
                    continue
                record = None if known.record is None else known.record.signed
                row = (peer, record, known.source, known.address, known.reached_at)
                self._db.execute("INSERT OR REPLACE INTO peer_records VALUES (?, ?, ?, ?, ?)", row)

    def remember(self, peer: str, address: str) -> None:
        """Keep where a peer was reached in the ledger's own short list too, which other commands read."""
        self._store.remember_peer(peer, address)

    # Rules

    def equivocators(self) -> frozenset[str]:
        """The peers of which the ledger holds proof that they signed two histories (`Store.proofs`)."""
        sql = "SELECT DISTINCT author FROM refused WHERE reason = 'equivocation'"
        return frozenset(row[0] for row in self._db.execute(sql))

    def rules(self) -> list[Rule]:
        sql = "SELECT target, allowed, reason FROM peer_rules ORDER BY target"
        return [Rule(target=row[0], allowed=bool(row[1]), reason=row[2]) for row in self._db.execute(sql)]

    def set_rule(self, rule: Rule) -> None:
        """Add a rule, or replace the one of its target. Raises `LedgerError` past `RULES_MAX`."""
        with transaction(self._db):
            row = (rule.target, rule.allowed, rule.reason)
            self._db.execute("INSERT OR REPLACE INTO peer_rules VALUES (?, ?, ?)", row)
            if self._db.execute("SELECT count(*) FROM peer_rules").fetchone()[0] > RULES_MAX:
                raise LedgerError(f"there are {RULES_MAX} rules already; replace some by one for their network")

    def drop_rule(self, target: str) -> bool:
        """Whether there was one."""
        with transaction(self._db):
            return bool(self._db.execute("DELETE FROM peer_rules WHERE target = ?", (target,)).rowcount)

    def changed(self) -> bool:
        """Whether another connection has written to the file since the last call; True for the first."""
        before, self._seen = self._seen, int(self._db.execute("PRAGMA data_version").fetchone()[0])
        return self._seen != before
