"""What the proxy costs: the same requests to the public port and to the engine behind it, in turns.

    make serve                                # in one terminal
    python -m benchmarks.proxy             # in another: 64 clients, 1024 requests of 200 tokens each way, twice

Prints completion tokens per second each way and their ratio. Requests ignore the end of an answer, so that all are
equally long, and begin differently, so that no cache answers them.
"""

import argparse
import asyncio
import time
from itertools import count
from pathlib import Path
from statistics import mean

from openai import AsyncOpenAI

from stance.client.local import read_key
from stance.machine.files import read_json

STATE = Path(".serve/state.json")


async def throughput(url: str, clients: int, requests: int, tokens: int, numbers: "count[int]") -> float:
    """Return completion tokens per second of so many requests, so many at once."""
    left = iter(range(requests))
    async with AsyncOpenAI(base_url=url, api_key=read_key(), max_retries=0) as client:

        async def ask() -> int:
            made = 0
            for _ in left:
                completion = await client.chat.completions.create(
                    model="aligned",
                    messages=[{"role": "user", "content": f"{next(numbers)}：真人化好看嗎？"}],
                    max_tokens=tokens,
                    temperature=0,
                    extra_body={"ignore_eos": True},
                )
                assert completion.usage
                made += completion.usage.completion_tokens
            return made

        began = time.monotonic()
        made = sum(await asyncio.gather(*(ask() for _ in range(clients))))
        return made / (time.monotonic() - began)


async def main() -> None:
    """Measure both ways in turns, after a warm-up."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--clients", type=int, default=64)
    ask.add_argument("--requests", type=int, default=1024)
    ask.add_argument("--tokens", type=int, default=200)
    ask.add_argument("--rounds", type=int, default=2)
    options = ask.parse_args()
    state, numbers = read_json(STATE), count()
    ways = {"proxy": state["address"], "engine": f"{state['live']['engine']}/v1"}
    work = (options.clients, options.requests, options.tokens, numbers)
    await throughput(ways["engine"], options.clients, options.clients, options.tokens, numbers)
    speeds_of: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, url in ways.items():
            speeds_of[way].append(await throughput(url, *work))
    for way, speeds in speeds_of.items():
        print(f"{way:>6}  {' '.join(f'{speed:.0f}' for speed in speeds)} tokens/s")
    print(f"through the proxy {mean(speeds_of['proxy']) / mean(speeds_of['engine']):.3f} of the engine's own")


if __name__ == "__main__":
    asyncio.run(main())
