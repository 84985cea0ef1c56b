"""Simulate the order of samples in many shards: memory, time, and shards in a batch against the ideal.

python -m tools.shard_order [--shards 1000000] [--samples 9000] [--window 64] [--batch 256] [--ranks 64]
"""

import argparse
import resource
import time

import torch

from src.data.loading.windows import WindowedOrder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"shards": 1_000_000, "samples": 9_000, "window": 64, "batch": 256, "ranks": 64, "batches": 2_000}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    o = parser.parse_args()
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = o.shards * o.samples
    order = WindowedOrder(torch.full((o.shards,), o.samples), o.window)
    print(f"{o.shards:,} shards of {o.samples:,} samples, window {o.window}, batch {o.batch}")  # noqa: T201
    for start in (0, total // o.batch // 2):
        batches, seconds = order.batches(0, 0, total // o.batch, start), []
        counts: list[list[int]] = []
        for _ in range(o.batches):
            began = time.perf_counter()
            batch = next(batches)
            seconds.append(time.perf_counter() - began)
            counts.append([len((part // o.samples).unique()) for part in (batch, *batch.tensor_split(o.ranks))])
        means, ideal = torch.tensor(counts, dtype=torch.float32).mean(0), min(o.window, o.batch)
        mean = sum(seconds[1:]) / len(seconds[1:]) * 1e6
        print(f"from batch {start:,}: {seconds[0]:.2f} s to the first, {mean:.0f} us to others")  # noqa: T201
        print(f"shards in a batch: {means[0]:.1f}, ideal {ideal}, ratio {means[0] / ideal:.3f}")  # noqa: T201
        print(f"shards in what one of {o.ranks} processes reads of it: {means[1:].mean():.2f}")  # noqa: T201
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"the process grew by {grown:.0f} MiB")  # noqa: T201


if __name__ == "__main__":
    main()
