"""Updates per second of the store on a real etcd member, by the number of concurrent writers.

Each update creates one service of typical size and is awaited. Run: `python bench/store.py [--seconds 3] [--writers 1 16 64]`.
"""

import argparse
import asyncio
import contextlib
import datetime
import logging
import statistics
import tempfile
import time
from pathlib import Path

import structlog

from pyswarm_common import pki
from pyswarm_common.clock import SystemClock
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Service
from pyswarm_manager.etcd.client import EtcdClient
from pyswarm_manager.etcd.member import EtcdMember, free_peer_port
from pyswarm_manager.etcd.settings import EtcdSettings
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_manager.store.etcd_backend import EtcdBackend
from pyswarm_manager.store.store import Store

SPEC_JSON = b'{"Name":"web","Mode":{"Replicated":{"Replicas":3}},"Labels":{"com.example.team":"web"}}' * 3


def member_settings(directory: Path) -> EtcdSettings:
    """Return the settings of a member alone in its cluster, with certificates of its own."""
    now = datetime.datetime.now(datetime.UTC)
    root, root_key = pki.new_root(now)
    key = pki.new_private_key_pem()
    identity = pki.NodeIdentity(node_id="bench", role="manager", cluster_id="bench")
    certificate = pki.sign_node_certificate(root, root_key, pki.new_signing_request(key), identity, ("127.0.0.1",), now)
    paths = {name: directory / name for name in ("root.pem", "node.pem", "node.key")}
    for path, text in zip(paths.values(), (root, certificate, key), strict=True):
        path.write_text(text)
    return EtcdSettings(
        name="bench",
        data_dir=directory / "data",
        runtime_dir=directory / "run",
        peer_address="127.0.0.1",
        peer_port=free_peer_port("127.0.0.1", 23_800),
        certificate_path=paths["node.pem"],
        key_path=paths["node.key"],
        root_path=paths["root.pem"],
    )


async def write(store: Store, until_s: float, latencies_s: list[float]) -> None:
    """Create services one after the other."""
    while (started_s := time.perf_counter()) < until_s:
        service = Service(id=new_id(), name=f"web-{len(latencies_s)}", spec_json=SPEC_JSON)
        await store.update(lambda tx, service=service: tx.create(service))  # type: ignore[misc]
        latencies_s.append(time.perf_counter() - started_s)


async def measure(store: Store, writers: int, seconds: float) -> None:
    """Print one line."""
    latencies_s: list[float] = []
    started_s = time.perf_counter()
    await asyncio.gather(*(write(store, started_s + seconds, latencies_s) for _ in range(writers)))
    rate = len(latencies_s) / (time.perf_counter() - started_s)
    p50, p99 = (statistics.quantiles(latencies_s, n=100)[i] * 1000 for i in (49, 98))
    print(f"{writers:4} writers: {rate:8.0f} updates/s, p50 {p50:6.2f} ms, p99 {p99:6.2f} ms")


async def measure_load(client: EtcdClient, data_keys: DataKeys) -> None:
    """Print how long a new mirror takes to load all that was written."""
    store = Store(EtcdBackend(client), data_keys, "another", SystemClock())
    started_s = time.perf_counter()
    task = asyncio.create_task(store.run())
    await store.wait_loaded()
    elapsed_s = time.perf_counter() - started_s
    print(f"loading a mirror of {len(store.view.services)} services: {elapsed_s:.2f} s")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def run(seconds: float, writer_counts: list[int]) -> None:
    """Start a member and measure."""
    data_keys = DataKeys.generate()
    with tempfile.TemporaryDirectory(prefix="psb-") as directory:
        async with EtcdMember(member_settings(Path(directory))) as member, EtcdClient(member.socket_path) as client:
            store = Store(EtcdBackend(client), data_keys, "bench", SystemClock())
            task = asyncio.create_task(store.run())
            await store.wait_leader()
            for writers in writer_counts:
                await measure(store, writers, seconds)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await measure_load(client, data_keys)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 16, 64])
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(run(args.seconds, args.writers))


if __name__ == "__main__":
    main()
