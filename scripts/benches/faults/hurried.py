"""`waggle` with the network's times cut short, so that a test sees in seconds what otherwise takes half a minute.

python -m benches.faults.hurried start --home HOME --observe
"""

from gossip import limits


def hurry() -> None:
    """Shorten pings, redials and the pauses between syncs. Call it before anything else of ours is imported."""
    limits.PING_INTERVAL_S = limits.PING_DEADLINE_S = 1.0  # a frozen peer is found out within 4 s
    limits.REDIAL_S_MAX = limits.PEER_RETRY_S_MAX = 2.0
    limits.DIAL_DEADLINE_S = 2.0
    limits.PEERS_INTERVAL_S = 2.0
    limits.PEERS_ROUND_S = 0.2
    limits.SYNC_INTERVAL_S = 0.5


if __name__ == "__main__":
    hurry()
    from node.cli import main

    main()
