"""How much of an engine's throughput comes through the proxy: `python -m benchmarks.proxy`, with `make serve` up.

The same requests, as many at once, go to the engine's own port and to the public one, in turns, so that a machine that
warms up or slows down does so for both. Every answer has its full length.
"""

import argparse
import asyncio
import json
import time
from statistics import median

import openai

from flows.endpoint import state
from tasks.access import read_key
from tasks.errors import InputError, run

PROMPT = "真人化能否為原作帶來新的觀眾？"


async def ask(client: openai.AsyncOpenAI, requests: int, clients: int, tokens: int) -> float:
    """Return the requests per second of as many clients, each asking again when it has its answer."""
    left = iter(range(requests))

    async def one() -> None:
        for number in left:
            await client.chat.completions.create(
                model="aligned",
                messages=[{"role": "user", "content": f"{number}. {PROMPT}"}],
                max_tokens=tokens,
                extra_body={"ignore_eos": True},
            )

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(clients)))
    return requests / (time.monotonic() - began)


async def measure(addresses: dict[str, str], rounds: int, requests: int, clients: int, tokens: int) -> dict[str, float]:
    """Return the median of the requests per second by address."""
    found: dict[str, list[float]] = {name: [] for name in addresses}
    for number in range(rounds + 1):
        for name, address in addresses.items():
            async with openai.AsyncOpenAI(base_url=address, api_key=read_key(), timeout=600, max_retries=0) as client:
                rate = await ask(client, requests, clients, tokens)
            if number:  # the first round warms both up
                found[name].append(rate)
    return {name: median(rates) for name, rates in found.items()}


def main() -> None:
    """Measure, and print the figures."""
    ask_for = argparse.ArgumentParser(description=__doc__)
    for name, usual in (("rounds", 5), ("requests", 512), ("clients", 64), ("tokens", 100)):
        ask_for.add_argument(f"--{name}", type=int, default=usual)
    asked = vars(ask_for.parse_args())
    known = state()
    if not known:
        raise InputError("no endpoint is up in this folder; start one: make serve")
    addresses = {"engine": f"{known['live']['engine']}/v1", "proxy": known["address"]}
    rates = asyncio.run(measure(addresses, **asked))
    figures = {**asked, **{name: round(rate, 2) for name, rate in rates.items()}}
    print(json.dumps({**figures, "through the proxy": round(rates["proxy"] / rates["engine"], 3)}))


if __name__ == "__main__":
    run(main)
