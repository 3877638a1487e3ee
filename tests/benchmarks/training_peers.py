"""The same steps of training by traitscope, by TRL and by pyreft, each in a process of its own."""

import torch

from benchmarks.kernels import kernel_choices
from benchmarks.peers.client import TRAINERS, Peer, PeerError, start_peers
from benchmarks.rounds import Rounds, ratio_between, run_rounds, summarise
from benchmarks.tables import at_least
from benchmarks.workload import BenchOptions, model_folder

A_STEP = 4  # texts
OUR_WAY = "traitscope, without checkpointing"


def measure_peers(options: BenchOptions, chats: list[dict]) -> dict:
    """Return the seconds of the same steps, and the most memory held, for every trainer in its own process."""
    count = 2 if options.quick else 5
    steps = [[chats[(A_STEP * i + k) % len(chats)] for k in range(A_STEP)] for i in range(count)]
    job = {"task": "training", "model": model_folder(), "steps": steps, "learning_rate": 0.1}
    job["layer"] = 14  # half the depth
    peers, missing = start_peers(job, tuple(TRAINERS))
    try:
        ways = {
            f"{peer.title}, {way}": lambda p=peer, w=way: p.ask({"do": w, "kernels": kernel_choices()[0]})[
                "cpu_s"
            ]
            for peer in peers
            for way in peer.ways
        }
        found = run_rounds(ways, options.rounds or (1 if options.quick else 2))
        vectors = {peer.title: peer.numbers() for peer in peers}
    finally:
        for peer in peers:
            peer.close()

    found.not_run.update(missing)
    peaks = {name: _peak_of(name, job | {"steps": steps[:2]}) for name in found.seconds}
    ours = vectors["traitscope"]
    rows = []
    for row in summarise(found, OUR_WAY):
        theirs = vectors.get(row["way"].split(",")[0])
        if theirs is not None:
            row |= {"peak_MB": peaks[row["way"]]}
            row |= {"cosine_with_ours": float(torch.cosine_similarity(ours, theirs).min())}
        rows.append(row)
    return {"rows": rows, "targets": _peer_targets(found), "notes": [PEER_NOTE.format(n=count)]}


PEER_NOTE = (
    "{n} steps of Adam on four texts each, in turn from sixteen, at half depth, in the same order, from zero at a "
    "constant rate of 0.1, without validation; the vector is added at every position but the first. traitscope's "
    "seconds hold the reading of what lies below. *Peak* is of a process that takes two such steps. All run on our "
    "kernels. TRL checkpoints unless it is told not to; pyreft has no vector by itself, so that its intervention is "
    "written for this, and its trainer shuffles unless it is given another loader."
)


def _peak_of(name: str, job: dict) -> float | None:
    title, _, way = name.partition(", ")
    try:
        with Peer(title, job) as peer:
            return peer.ask({"do": way, "kernels": kernel_choices()[0]})["peak_mb"]
    except PeerError:
        return None


def _peer_targets(found: Rounds) -> list[dict]:
    return [
        at_least(
            f"{name} / traitscope",
            1.0,
            ratio_between(found, name, OUR_WAY) if name in found.seconds else None,
        )
        for name in ("TRL, with checkpointing", "TRL, without checkpointing", "pyreft, its trainer")
    ]
