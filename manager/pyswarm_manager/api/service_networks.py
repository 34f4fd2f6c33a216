"""Whether a service can be on the networks as its user wants: the ingress network, and addresses that the user chose."""

from collections.abc import Iterable
from typing import NoReturn

from pyswarm_common.errors import FailedPrecondition, InvalidArgument
from pyswarm_common.network_options import ADDRESSES, MAC_ADDRESS
from pyswarm_common.objects import Network
from pyswarm_common.own_networks import HOST, NONE, own_network_of
from pyswarm_common.service_labels import MOVE_ORDER
from pyswarm_common.specs import NetworkAttachmentConfig, ServiceSpec
from pyswarm_manager.allocator.fixed_addresses import FixedPlace, fixed_place
from pyswarm_manager.allocator.ipam import PoolError, address_text
from pyswarm_manager.allocator.mesh_ports import NO_INGRESS, ingress_network
from pyswarm_manager.allocator.service_addresses import ServiceAddresses
from pyswarm_manager.allocator.subnets import known_subnets, mac_refusal
from pyswarm_manager.api.port_validation import ports_of
from pyswarm_manager.store.tables import View


def refuse_without_ingress(spec: ServiceSpec, view: View) -> None:
    """Check that there is a routing mesh if the service publishes ports in it. Raises FailedPrecondition."""
    if spec.publishes_in_mesh and ingress_network(view) is None:
        raise FailedPrecondition(
            f"{NO_INGRESS}: make one with `network create --ingress --driver overlay ingress`", grpc_code="FailedPrecondition"
        )


def validate_own_networks(spec: ServiceSpec, configs: Iterable[NetworkAttachmentConfig] | None) -> None:
    """Check what goes with the networks that each node has of its own. Raises InvalidArgument."""
    names = [own_network_of(config.target) for config in configs or ()]
    if HOST in names and len(names) > 1:
        _refuse(None, "a service on the network host cannot be on others: its tasks have their node's own network")
    if NONE in names and len(names) > 1:
        _refuse(None, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
    if HOST in names and spec.publishes_in_mesh:
        _refuse(
            None,
            "ports of a service on the network host cannot be published in the routing mesh: what its tasks listen on is their "
            "node's own port; leave --publish out, or say mode=host, so that two tasks with one port are kept on different nodes",
        )
    if NONE in names and ports_of(spec):
        _refuse(None, "ports of a service on the network none cannot be published: nothing reaches its tasks")


def validate_fixed_places(spec: ServiceSpec, configs: Iterable[NetworkAttachmentConfig] | None, own_id: str, view: View) -> None:
    """Check the addresses and MAC addresses that a service's user chose for its tasks. Raises InvalidArgument.

    `configs`: the networks of its tasks, with targets resolved to ids.
    """
    for config in configs or ():
        network = view.networks.get(config.target)
        try:
            fixed = fixed_place(config)
        except PoolError as error:
            _refuse(network, str(error))
        if network is None or not (fixed.addresses or fixed.mac):
            continue
        _validate_mode(spec, network, fixed)
        _validate_addresses(network, fixed, own_id, view)
        _validate_mac(network, fixed, own_id, view)


def _validate_mode(spec: ServiceSpec, network: Network, fixed: FixedPlace) -> None:
    option = ADDRESSES if fixed.addresses else MAC_ADDRESS
    if spec.mode_name != "replicated":
        _refuse(network, f"{option} needs a replicated service: the tasks of mode {spec.mode_name} have no lasting slots")
    if fixed.mac and spec.replicas > 1:
        _refuse(network, f"{MAC_ADDRESS} needs a service with one replica: this one has {spec.replicas}")
    orders = [config.order for config in (spec.update_config, spec.rollback_config) if config is not None]
    if "start-first" in [*orders, (spec.labels or {}).get(MOVE_ORDER)]:
        _refuse(network, f"{option} rules start-first out: while the old task runs, the new one cannot have its address")


def _validate_addresses(network: Network, fixed: FixedPlace, own_id: str, view: View) -> None:
    if not fixed.addresses:
        return
    subnets = known_subnets(network)
    if not subnets:
        _refuse(network, "it has no subnet yet: create it with --subnet, or try again when it has")
    others = view.derived(ServiceAddresses).on(network.id)
    for address in fixed.addresses:
        text = address_text(address)
        subnet = next((subnet for subnet in subnets if address in subnet), None)
        if subnet is None:
            _refuse(network, f"no configured subnet contains IP address {text}")
        if address == subnet.gateway:
            _refuse(network, f"address {text} is the network's gateway")
        if address in subnet.auxiliary:
            _refuse(network, f"address {text} is an auxiliary address of the network")
        for service_id, place in others.items():
            name = _name_of(service_id, view)
            if address == place.virtual_ip:
                _refuse(network, f"address {text} is the virtual IP of service {name}")
            if service_id != own_id and address in place.fixed.addresses:
                _refuse(network, f"address {text} is chosen for service {name}")


def _validate_mac(network: Network, fixed: FixedPlace, own_id: str, view: View) -> None:
    if not fixed.mac:
        return
    refusal = mac_refusal(network, fixed.mac)
    if refusal:
        _refuse(network, refusal)
    for service_id, place in view.derived(ServiceAddresses).on(network.id).items():
        if service_id != own_id and place.fixed.mac == fixed.mac:
            _refuse(network, f"MAC address {fixed.mac} is chosen for service {_name_of(service_id, view)}")


def _name_of(service_id: str, view: View) -> str:
    service = view.services.get(service_id)
    return service.name if service is not None else service_id


def _refuse(network: Network | None, reason: str) -> NoReturn:
    where = f"network {network.name}: " if network is not None else ""
    raise InvalidArgument(f"{where}{reason}", grpc_code="InvalidArgument")
