"""A container's /etc/resolv.conf and /etc/hosts, from what its sandbox has and its spec asks for. Pure.

As in Docker (libnetwork `resolvconf`): where the node's own resolver answers (127.0.0.11), it stays the container's nameserver, and
those of the spec are where it asks on; elsewhere they replace the present ones. Search domains and options replace the present
ones; the search domain `.` means none at all.
"""

from collections.abc import Sequence

from pyswarm_common.container_spec import DNSConfig

OWN_RESOLVER = "127.0.0.11"


def resolv_conf(base: str, dns: DNSConfig | None) -> str:
    """Return the text of resolv.conf: `base` with what the spec says instead."""
    if dns is None or not (dns.nameservers or dns.search or dns.options):
        return base
    has_own_resolver = OWN_RESOLVER in _values(base, "nameserver")
    nameservers = dns.nameservers if dns.nameservers and not has_own_resolver else _values(base, "nameserver")
    search = dns.search or _values(base, "search")
    options = dns.options or _values(base, "options")
    if has_own_resolver and not any(option.startswith("ndots:") for option in options):
        options = [*options, "ndots:0"]
    lines = [f"nameserver {address}" for address in nameservers]
    if search and list(search) != ["."]:
        lines.append(f"search {' '.join(search)}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "".join(f"{line}\n" for line in lines)


def search_domains(dns: DNSConfig | None) -> tuple[str, ...]:
    """Return the search domains of a spec, none for `.`."""
    domains = tuple(dns.search or ()) if dns is not None else ()
    return () if domains == (".",) else domains


def with_extra_hosts(hosts: str, extra: Sequence[str]) -> str:
    """Return the text of /etc/hosts with lines of its format behind it."""
    if not extra:
        return hosts
    separator = "" if not hosts or hosts.endswith("\n") else "\n"
    return hosts + separator + "".join(f"{line}\n" for line in extra)


def _values(text: str, keyword: str) -> list[str]:
    words = (line.split() for line in text.splitlines())
    return [value for line in words if line[:1] == [keyword] for value in line[1:]]
