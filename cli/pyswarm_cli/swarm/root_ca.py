"""`pyswarm swarm ca`: show the roots that the cluster trusts; change the root and follow how the nodes take it up."""

import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pyswarm_cli.engine import EngineClient
from pyswarm_cli.key_values import parsed
from pyswarm_cli.units import parse_duration_ns

POLL_PERIOD_S = 0.2
NAMED_NODES = 5
"""How many of the nodes that are awaited are named."""


@dataclass(frozen=True)
class RotationProgress:
    """How far the cluster is: nodes with a certificate of the new root, and with trust in nothing else; who is awaited."""

    certificates: int
    roots: int
    total: int
    awaited: tuple[str, ...]
    is_over: bool

    @property
    def text(self) -> str:
        """One or two lines for people."""
        counts = (
            f"rotated TLS certificates: {self.certificates}/{self.total} nodes, CA certificates: {self.roots}/{self.total} nodes"
        )
        if not self.awaited:
            return counts
        named = ", ".join(self.awaited[:NAMED_NODES]) + (" …" if len(self.awaited) > NAMED_NODES else "")
        return f"{counts}; waiting for {named}"


@click.command()
@click.option("--rotate", is_flag=True, help="Change the root: to a new one, or to the one given with --ca-cert and --ca-key.")
@click.option("--ca-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The root certificate (PEM) to use.")
@click.option("--ca-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its private key (PEM).")
@click.option(
    "--cert-expiry",
    callback=parsed(parse_duration_ns),
    metavar="DURATION",
    help="How long certificates last.  [default: 90 d]",
)
@click.option("--detach", "-d", is_flag=True, help="Return at once; the change goes on.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@click.make_pass_decorator(EngineClient)
def ca(
    engine: EngineClient,
    rotate: bool,
    ca_cert: Path | None,
    ca_key: Path | None,
    cert_expiry: int | None,
    detach: bool,
    quiet: bool,
) -> None:
    """Show the root CA certificate, or change it while everything runs.

    Every node gets a new certificate; join tokens change with the root. A node that is down holds the change up until it returns
    or is removed (`pyswarm node rm`).

    Example: pyswarm swarm ca --rotate
    """
    state = engine.get("swarm")
    if not rotate:
        for flag, value in (("ca-cert", ca_cert), ("ca-key", ca_key), ("cert-expiry", cert_expiry)):
            if value is not None:
                raise click.UsageError(f"`--{flag}` flag requires the `--rotate` flag to update the CA")
        click.echo(state["TLSInfo"]["TrustRoot"].strip())
        return
    if ca_cert is not None and ca_key is None:
        raise click.UsageError("the --ca-cert flag requires that a --ca-key flag be provided as well")
    config = rotated_config(
        state["Spec"].get("CAConfig") or {},
        root_pem=ca_cert.read_text() if ca_cert else "",
        key_pem=ca_key.read_text() if ca_key else "",
        expiry_ns=cert_expiry,
    )
    engine.post("swarm", "update", body={**state["Spec"], "CAConfig": config}, version=state["Version"]["Index"])
    if detach:
        return
    _follow(engine, quiet=quiet)
    if not quiet:
        click.echo(engine.get("swarm")["TLSInfo"]["TrustRoot"].strip())


def rotated_config(config: Mapping[str, Any], *, root_pem: str, key_pem: str, expiry_ns: int | None) -> dict[str, Any]:
    """Return the `CAConfig` that asks for this root; without one, for a new root of the cluster's own."""
    changed = {**config, "SigningCACert": root_pem, "SigningCAKey": key_pem}
    if not root_pem and not key_pem:
        changed["ForceRotate"] = int(config.get("ForceRotate") or 0) + 1
    if expiry_ns is not None:
        changed["NodeCertExpiry"] = expiry_ns
    return changed


def rotation_progress(swarm: Mapping[str, Any], nodes: Collection[Mapping[str, Any]]) -> RotationProgress:
    """Return how far the nodes are with the root that the swarm shows."""
    wanted = swarm["TLSInfo"]
    certified, trusting, awaited = 0, 0, []
    for node in nodes:
        tls = node["Description"].get("TLSInfo") or {}
        has_certificate = all(tls.get(name) == wanted[name] for name in ("CertIssuerSubject", "CertIssuerPublicKey"))
        is_trusting = tls.get("TrustRoot") == wanted["TrustRoot"]
        certified += has_certificate
        trusting += is_trusting
        if not (has_certificate and is_trusting):
            name = node["Description"].get("Hostname") or node["ID"]
            state = node["Status"]["State"]
            awaited.append(name if state == "ready" else f"{name} ({state})")
    is_rotating = bool(swarm["RootRotationInProgress"])
    roots = 0 if is_rotating else trusting
    return RotationProgress(
        certificates=certified,
        roots=roots,
        total=len(nodes),
        awaited=tuple(sorted(awaited)),
        is_over=not is_rotating and certified == roots == len(nodes),
    )


def _follow(engine: EngineClient, *, quiet: bool) -> None:
    if quiet:
        _wait_over(engine, lambda progress: None)
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(highlight=False), refresh_per_second=10) as live:
            _wait_over(engine, lambda progress: live.update(progress.text))
    else:
        _wait_over(engine, lambda progress: click.echo(progress.text))


def _wait_over(engine: EngineClient, show: Callable[[RotationProgress], None]) -> None:
    shown: RotationProgress | None = None
    while True:
        progress = rotation_progress(engine.get("swarm"), engine.get("nodes"))
        if progress != shown:
            show(progress)
            shown = progress
        if progress.is_over:
            return
        time.sleep(POLL_PERIOD_S)
