"""How fast activations are captured, against the bare forward pass (the limit) and every peer. Run:
.venv/bin/python tests/benchmarks/capture.py

The work: texts of mixed lengths → mean residual stream over the response tokens, [n, n_layers, d_model]. The
limit has no hooks, no lm_head, and the best batches: sorted by length under the same token budget. Every
worker is a process that has loaded its model before the clock starts.
"""

import runpy
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


import torch
from torch import Tensor

from benchmarks.kernels import OURS, SHIPPED, kernel_choices, use_kernels
from benchmarks.peers import persona_way
from benchmarks.peers.client import Peer, PeerError, start_peers
from benchmarks.roofline import capture_work, measure_ceiling, roofline_row, wait_for
from benchmarks.rounds import Rounds, Way, ratio_between, run_rounds, summarise, timed
from benchmarks.tables import at_least, at_most
from benchmarks.workload import (
    BenchOptions,
    Text,
    bench_main,
    cosine,
    load_model,
    make_texts,
    model_folder,
    supports_bf16,
    token_budget,
)
from traitscope.utils.model.batching import plan_batches
from traitscope.utils.model.capture import pool_activations
from traitscope.utils.model.loading import LM

BARE, OWN, SINGLE, BF16 = (
    "bare forward",
    "traitscope",
    "traitscope, one text at a time",
    "traitscope, bfloat16",
)
MANY = 200
TRIALS = 2  # of each batch size: a slow moment of the machine must not choose a peer's worse one
TARGETS = {
    "persona_vectors' way": 1.35,
    "nnsight": 1.3,
    "TransformerLens": 1.3,
    "steering-vectors": 1.3,
    "repeng": 2.0,
}


def measure(
    options: BenchOptions,
    make: Callable[[int], list[Text]] = make_texts,
    subject: str = "Capture",
    kernels: tuple[str, ...] = (),
) -> dict:
    """Return the results of capturing the texts that `make(n)` makes, with peers on the given kernels;
    without, on all there are.
    """
    lm = load_model(options)
    texts = make(8 if options.quick else 48 if options.device == "cpu" else 1000)
    batches = plan_batches([len(t.ids) for t in texts], max_tokens=token_budget(lm))
    ways = _own_ways(lm, texts, batches, options)
    with_bf16 = options.device == "cpu" and supports_bf16()
    if with_bf16:
        low = load_model(options, dtype="bfloat16")
        ways[BF16] = timed(lambda: pool_activations(low, [t.reading for t in texts]))
    job = {"task": "capture", "model": model_folder(), "texts": [asdict(t) for t in texts]}
    peers, missing = start_peers(job) if options.has_peers else ([], {})
    try:
        agreement, best = _meet(lm, peers, texts, missing)
        ways |= _peer_ways(peers, best, kernels or kernel_choices())
        found = run_rounds(ways, options.rounds or (1 if options.quick else 3))
    finally:
        for peer in peers:
            peer.close()
    found.not_run.update(missing)
    rows = [
        row | {"lowest_cosine": agreement.get(row["way"].split(",")[0])} if "ratio" in row else row
        for row in summarise(found, BARE, per=len(texts))
    ]
    counts = count_work(lm, texts, batches)
    if with_bf16:
        counts["bfloat16_lowest_cosine"] = cosine(
            pool_activations(lm, [t.reading for t in texts]).activations, _capture(low, texts)
        )
    ceiling = measure_ceiling(lm, 512 if options.quick else 0)
    roof = roofline_row(
        BARE,
        capture_work(lm, [[len(texts[i].ids) for i in b] for b in batches]),
        ceiling,
        min(found.seconds[BARE]),
    )
    return {
        "subject": subject,
        "setting": {
            "model": lm.identity["name"],
            "dtype": lm.identity["dtype"],
            "device": options.device,
            "texts": len(texts),
            "tokens": sum(len(t.ids) for t in texts),
        },
        "rows": [*rows, {"way": "counted", **counts}, roof],
        "targets": _targets(found, counts),
        "notes": [NOTE] if options.has_peers else [],
    }


NOTE = (
    "Seconds are per text, and the ratio is to the bare forward pass of the same round. persona_vectors' "
    "`hidden_states[l + 1]` is our layer l. Only its last one is not: it is read after the final norm, and left "
    "out of the cosine. repeng reads the last token only, and is compared with ours there. Each peer runs at the "
    "batch size that suited it best in a trial. It also runs at its default, where it has one, and its target is "
    "for that."
)


def _capture(lm: LM, texts: list[Text]) -> Tensor:
    return pool_activations(lm, [t.reading for t in texts]).activations


def _own_ways(lm: LM, texts: list[Text], batches: list[list[int]], options: BenchOptions) -> dict[str, Way]:
    def bare() -> None:
        run_bare(lm, texts, batches)
        wait_for(lm.device)

    def with_kernels(kernels: str) -> None:
        use_kernels(lm.model, kernels)
        try:
            bare()
        finally:
            use_kernels(lm.model, kernel_choices()[0])

    ways = {
        BARE: timed(bare),
        OWN: timed(lambda: _capture(lm, texts)),
        SINGLE: timed(lambda: [_capture(lm, [t]) for t in texts]),
    }
    if options.device == "cpu" and OURS in kernel_choices():
        ways[f"{BARE}, kernels {SHIPPED}"] = timed(lambda: with_kernels(SHIPPED))
    if not options.has_peers:
        ways["persona_vectors' way"] = timed(
            lambda: persona_way.capture(lm.model, [asdict(t) for t in texts])
        )
    return ways


@torch.inference_mode()
def run_bare(lm: LM, texts: list[Text], batches: list[list[int]]) -> None:
    """The limit: nothing but the blocks, on the same batches."""
    for batch in batches:
        rows = [texts[i].ids for i in batch]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, own in enumerate(rows):
            ids[row, : len(own)] = torch.tensor(own)
        lm.model.base_model(input_ids=ids.to(lm.device), use_cache=False)


def _meet(
    lm: LM, peers: list[Peer], texts: list[Text], missing: dict[str, str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Try every way of every peer; return the cosine of its numbers to ours, and each peer's fastest way.
    One that fails is dismissed.
    """
    means, last = _capture(lm, texts), pool_activations(lm, [t.last for t in texts]).activations
    agreement, best = {OWN: 1.0}, {}
    for peer in list(peers):
        try:
            seconds = {
                way: min(peer.run(way, kernel_choices()[0]) for _ in range(TRIALS)) for way in peer.ways
            }
            agreement[peer.title] = _agreement(
                peer.title, peer.numbers(), last if peer.title == "repeng" else means
            )
        except PeerError as error:
            missing[peer.title] = str(error)
            peers.remove(peer)
            continue
        best[peer.title] = min(seconds, key=seconds.__getitem__)
    return agreement, best


def _agreement(title: str, theirs: Tensor, ours: Tensor) -> float:
    if title == "persona_vectors' way":
        theirs, ours = theirs[:, 1:-1], ours[:, :-1]
    elif title == "repeng":
        theirs, ours = theirs[:, :-1], ours[:, :-1]  # its last layer too is read after the final norm
    return cosine(ours, theirs)


def _peer_ways(peers: list[Peer], best: dict[str, str], kernels: tuple[str, ...]) -> dict[str, Way]:
    """Return the ways of every peer: the batch size that suited it best, its own default where it has
    one, each on every kernel.
    """
    ways: dict[str, Way] = {}
    for peer in peers:
        for way in dict.fromkeys([best[peer.title], peer.default or best[peer.title]]):
            default = " (its default)" if way == peer.default else ""
            ways |= {
                f"{peer.title}, {way}{default}, {kernel}": lambda p=peer, w=way, k=kernel: p.run(w, k)
                for kernel in kernels
            }
    return ways


def count_work(lm: LM, texts: list[Text], batches: list[list[int]]) -> dict:
    """Return what does not depend on the clock: tokens fed over real tokens, and calls of lm_head, in one
    capture of the texts.
    """
    calls, fed = [], []
    head, base = lm.model.get_output_embeddings(), lm.model.base_model
    handles = [head.register_forward_hook(lambda *_: calls.append(1))]
    handles.append(
        base.register_forward_pre_hook(
            lambda _m, _a, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
    )
    try:
        pooled = _capture(lm, texts)
    finally:
        for handle in handles:
            handle.remove()
    alone = torch.cat([_capture(lm, [t]) for t in texts])
    largest = float((pooled - alone).abs().max())
    return {
        "fed_over_real_tokens": sum(fed) / sum(len(t.ids) for t in texts),
        f"of_{MANY}_texts": padding_of_many(lm),
        "lm_head_calls": len(calls),
        "forward_passes": len(fed),
        "largest_difference_to_one_at_a_time": largest,
    }


def padding_of_many(lm: LM) -> float:
    """Return tokens fed over real tokens for as many texts as a trait has: the more there are, the closer
    their lengths lie.
    """
    lengths = [len(t.ids) for t in make_texts(MANY)]
    return sum(
        len(batch) * lengths[batch[0]] for batch in plan_batches(lengths, max_tokens=token_budget(lm))
    ) / sum(lengths)


def _targets(found: Rounds, counts: dict) -> list[dict]:
    targets = [at_most("traitscope / bare forward", 1.05, ratio_between(found, OWN, BARE))]
    for title, wanted in TARGETS.items():
        names = [name for name in found.seconds if name.startswith(title)]
        names = [name for name in names if "default" in name] or names  # a target is for how a peer is used
        for name in names or [title]:
            targets.append(
                at_least(f"{name} / traitscope", wanted, ratio_between(found, name, OWN) if names else None)
            )
    targets += [
        at_most(f"padded / real tokens, {MANY} texts", 1.05, counts[f"of_{MANY}_texts"]),
        at_most("lm_head calls", 0, float(counts["lm_head_calls"])),
    ]
    targets.append(
        at_most("largest difference to one at a time", 1e-3, counts["largest_difference_to_one_at_a_time"])
    )
    if BF16 in found.seconds:
        plain = f"{BARE}, kernels {SHIPPED}"
        targets += [
            at_least(
                "bare forward in torch's own float32 / traitscope, bfloat16",
                2.5,
                ratio_between(found, plain if plain in found.seconds else BARE, BF16),
            ),
            at_least("traitscope / its bfloat16", 2.5, ratio_between(found, OWN, BF16)),
            at_least("its cosine", 0.999, counts["bfloat16_lowest_cosine"]),
        ]
    return targets


if __name__ == "__main__":
    bench_main(measure, __doc__)
