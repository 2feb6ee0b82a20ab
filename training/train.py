"""Trains the shipped model on the corpus, on a CPU, in well under two hours on two cores.

    python -m training.train [--minutes 40] [--resume] [--out agentmesh/builtin/tiny]

Progress goes to standard error; a checkpoint in training/out/ every two minutes lets --resume go on after a stop.
"""

from __future__ import annotations

import argparse
import math
import pickle
import random
import re
import socket
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import LlamaForCausalLM

from training import dataset
from training.model import config, make_tokenizer, save
from training.scoring import choose

OUT = Path(__file__).parent / "out"
LONGEST = 900  # tokens of a sample; the few longer ones are left out of training
Encoded = tuple[list[int], int]  # tokens, where the answer begins
Prepared = tuple[list[Encoded], list[dataset.Sample], str]


def variants(count: int, seed: int, faults_out: set[str], blurred: bool) -> list[dataset.Sample]:
    """Each log `count` times: with other words in it, and inside other surroundings; balanced between causes."""
    rng = random.Random(seed)
    found = []
    records = [record for record in dataset.records("train") + dataset.records("dev") if dataset.fault(record) not in faults_out]
    sizes: dict[str, int] = defaultdict(int)
    for record in records:
        sizes[record["cause"]] += 1
    middle = sorted(sizes.values())[len(sizes) // 2]
    started = time.monotonic()
    for number, record in enumerate(records, 1):
        times = count * min(2.0, max(0.6, (middle / sizes[record["cause"]]) ** 0.5))
        for turn in range(int(times + rng.random())):
            changed = dataset.swap(record, rng) if turn or rng.random() < 0.5 else record
            log = dataset.decorate(changed["log"], rng, False) if rng.random() < 0.6 else changed["log"]
            made = dataset.sample(changed, log)
            if made.right["quote"]:
                found.append(dataset.blur(made, rng) if blurred else made)
        if number % 1000 == 0:
            left = (time.monotonic() - started) / number * (len(records) - number)
            print(f"samples: {number}/{len(records)} logs, {left:.0f} s left", file=sys.stderr, flush=True)
    rng.shuffle(found)
    return found


def encode(tokenizer: Tokenizer, sample: dataset.Sample, free: bool) -> Encoded:
    """The conversation as the chat template lays it out."""
    prompt, answer = (dataset.free_prompt(sample.log), dataset.free_answer(sample)) if free else (sample.prompt, dataset.answer(sample))
    head = tokenizer.encode("<s><|user|>" + prompt + "<|assistant|>").ids
    if not free and len(sample.prompt) % 17 == 0 and '"P0"' not in answer:
        # The one check that a repair may follow: the model sees its answer without a place, the message, and says it right.
        wrong = re.sub(r'"P\d"', '"P0"', answer)
        said = f"{wrong}</s><|user|>Not accepted:\n- {dataset.complaint()}\nAnswer again.<|assistant|>"
        head += tokenizer.encode(said).ids
    return head + tokenizer.encode(answer + "</s>").ids, len(head)


def batches(samples: list[Encoded], tokens: int, rng: random.Random) -> list[list[Encoded]]:
    """Samples of like length together, about `tokens` tokens in each batch."""
    order = sorted(samples, key=lambda s: len(s[0]) + rng.random() * 30)
    made: list[list[Encoded]] = []
    batch: list[Encoded] = []
    for item in order:
        if batch and (len(batch) + 1) * len(item[0]) > tokens:
            made.append(batch)
            batch = []
        batch.append(item)
    if batch:
        made.append(batch)
    rng.shuffle(made)
    return made


def loss_of(model: LlamaForCausalLM, batch: list[Encoded], lm_weight: float) -> torch.Tensor:
    """Loss on the answer, and a little on the log itself, which teaches how logs read."""
    longest = max(len(tokens) for tokens, _ in batch)
    ids = torch.zeros((len(batch), longest), dtype=torch.long)
    weight = torch.zeros((len(batch), longest))
    for row, (tokens, start) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        weight[row, : len(tokens)] = lm_weight
        weight[row, start : len(tokens)] = 1.0
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    target, weight = ids[:, 1:], weight[:, 1:]
    answer = weight == 1.0
    # A few tokens of an answer carry it, the rest is punctuation: without the factor the log's own text would lead.
    loss = 5 * functional.cross_entropy(model.lm_head(hidden[answer]), target[answer])
    if lm_weight:
        some = (weight == lm_weight) & (torch.rand_like(weight) < 0.15)
        loss = loss + lm_weight * functional.cross_entropy(model.lm_head(hidden[some]), target[some])
    return loss


def average(model: LlamaForCausalLM, workers: int) -> None:
    """The mean of the workers' gradients, in one message."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= workers
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def agree(spent: float) -> float:
    """The first worker's clock, so that all stop at the same step."""
    clock = torch.tensor([spent], dtype=torch.float64)
    torch.distributed.broadcast(clock, 0)
    return float(clock.item())


@torch.no_grad()  # type: ignore[untyped-decorator]
def measure(model: LlamaForCausalLM, tokenizer: Tokenizer, samples: list[dataset.Sample]) -> str:
    """Shares of right answers under the schema's constraint."""
    model.eval()
    right: dict[str, int] = defaultdict(int)
    for said, sample in zip(choose(model, tokenizer, samples), samples, strict=True):
        for key in said:
            right[key] += said[key] in sample.right[key]
    model.train()
    return "  ".join(f"{key} {count / len(samples):.3f}" for key, count in right.items())


def main() -> None:
    """Makes samples, trains for the given time, writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40, help="time of the optimisation itself")
    parser.add_argument("--out", default="agentmesh/builtin/tiny")
    parser.add_argument("--name", default="final", help="of the checkpoint, to try things beside each other")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--variants", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--lm", type=float, default=0.3)
    parser.add_argument("--dev", type=int, default=0, help="keep every nth fault out of training and measure on it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--blur", action=argparse.BooleanOptionalAction, default=True, help="take away some of the rules' help")
    parser.add_argument("--free", action="store_true", help="a model that writes its answer without candidates, to compare with")
    parser.add_argument("--start", default="", help="weights to start from")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each: faster on two cores than two threads")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    prepared = prepare(args)
    if args.workers == 1:
        work(0, args, prepared)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_worker, args=(args, prepared, port), nprocs=args.workers)


def _worker(rank: int, args: argparse.Namespace, prepared: Prepared, port: int) -> None:
    """One of the processes; they average their gradients at each step."""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=args.workers)
    work(rank, args, prepared)
    torch.distributed.destroy_process_group()


def prepare(args: argparse.Namespace) -> Prepared:
    """Samples, measured samples and tokenizer: the same for every worker."""
    faults = sorted({dataset.fault(record) for record in dataset.records("train")})
    out = set(faults[3 :: args.dev]) if args.dev else set[str]()
    cache = OUT / f"{args.name}.samples.pickle"
    samples: list[dataset.Sample]
    if args.resume and cache.exists():
        samples = pickle.loads(cache.read_bytes())
    else:
        samples = variants(args.variants, 5, out, args.blur)
        cache.write_bytes(pickle.dumps(samples))
    if args.start:
        tokenizer = Tokenizer.from_file(str(Path(args.start) / "tokenizer.json"))
    else:
        tokenizer = make_tokenizer([sample.prompt + dataset.answer(sample) for sample in samples[:8000]] if not args.free else [s.log + dataset.free_answer(s) for s in samples[:4000]])
    dev = [dataset.sample(record) for record in dataset.records("train") if dataset.fault(record) in out][:240]
    encoded = [item for item in (encode(tokenizer, sample, args.free) for sample in samples) if len(item[0]) <= LONGEST]
    tokens = sum(len(item[0]) for item in encoded)
    print(f"{len(encoded)} samples of {tokens / len(encoded):.0f} tokens", file=sys.stderr)
    return encoded, dev, tokenizer.to_str()


def work(rank: int, args: argparse.Namespace, prepared: Prepared) -> None:
    """Optimises for the given time; the first worker reports, keeps checkpoints and writes the weights."""
    encoded, dev, text = prepared
    tokenizer = Tokenizer.from_str(text)
    torch.set_num_threads(args.threads)
    torch.manual_seed(11)
    model = LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32) if args.start else LlamaForCausalLM(config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.05)
    checkpoint = OUT / f"{args.name}.pt"
    spent, step, epoch = 0.0, 0, 0
    if args.resume and checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        spent, step, epoch = state["spent"], state["step"], state["epoch"]
    total, recent, saved, shown = args.minutes * 60, [], time.monotonic(), time.monotonic()
    model.train()
    while spent < total:
        epoch += 1
        todo = batches(encoded, args.tokens, random.Random(epoch))
        for batch in todo[rank : len(todo) - len(todo) % args.workers : args.workers]:
            began = time.monotonic()
            part = spent / total
            rate = args.rate * min(1.0, (step + 1) / 60) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
                loss = loss_of(model, batch, args.lm * max(0.0, 1 - 2 * part))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if args.workers > 1:
                average(model, args.workers)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            spent += time.monotonic() - began
            if args.workers > 1:
                spent = agree(spent)
            recent.append(loss.item())
            if rank == 0 and time.monotonic() - shown > 20:
                shown = time.monotonic()
                print(f"step {step}  epoch {epoch}  loss {sum(recent[-30:]) / len(recent[-30:]):.3f}  {(total - spent) / 60:.1f} min left", file=sys.stderr, flush=True)
            if rank == 0 and time.monotonic() - saved > 150:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "spent": spent, "step": step, "epoch": epoch}, checkpoint)
                save(model, tokenizer, OUT / args.name)
                if dev:
                    print("faults not in training:", measure(model, tokenizer, dev), file=sys.stderr, flush=True)
                saved = time.monotonic()
            if spent >= total:
                break
    if rank:
        return
    if dev:
        print("faults not in training:", measure(model, tokenizer, dev), file=sys.stderr, flush=True)
    save(model, tokenizer, Path(args.out))
    print(f"wrote {args.out} after {step} steps, {epoch} epochs", file=sys.stderr)


if __name__ == "__main__":
    main()
