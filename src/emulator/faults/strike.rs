//! What a fault does to what is open now.

use super::{FaultKind, FaultScope, UnderWay};
use crate::emulator::address::Endpoint;
use crate::emulator::errors;
use crate::emulator::hub::Hub;
use crate::emulator::links::{CbsRole, ConnectionEntry, ConnectionStop, Direction, Link};
use std::sync::Arc;

pub(super) fn strike(hub: &Hub, fault: &UnderWay) {
    match fault.name {
        FaultKind::KillTcp => stop(hub, fault, || ConnectionStop::Kill),
        FaultKind::KillAmqpConnection => {
            let error = || errors::connection_forced("Fault injected.");
            stop(hub, fault, || ConnectionStop::Close(Some(error())));
        }
        FaultKind::ShutDownAmqp => stop(hub, fault, || ConnectionStop::Close(None)),
        FaultKind::KillAmqpSession => {
            for session in sessions(hub, &fault.scope) {
                session.stop.ask(errors::killed(fault.name.name()));
            }
        }
        FaultKind::KillAmqpCBSLinkReq => detach_cbs(hub, fault, CbsRole::Requests),
        FaultKind::KillAmqpCBSLinkResp => detach_cbs(hub, fault, CbsRole::Replies),
        FaultKind::KillAmqpD2CLink => detach(hub, fault, Endpoint::Events),
        FaultKind::KillAmqpC2DLink => detach(hub, fault, Endpoint::Commands),
        FaultKind::DetachLink => detach(hub, fault, Endpoint::Events),
        FaultKind::KillAmqpTwinLinkReq => {
            detach_half(hub, fault, (Endpoint::Twin, Direction::ToHub));
        }
        FaultKind::KillAmqpTwinLinkResp => {
            detach_half(hub, fault, (Endpoint::Twin, Direction::ToDevice));
        }
        FaultKind::KillAmqpMethodReqLink => {
            detach_half(hub, fault, (Endpoint::Methods, Direction::ToDevice));
        }
        FaultKind::KillAmqpMethodRespLink => {
            detach_half(hub, fault, (Endpoint::Methods, Direction::ToHub));
        }
        FaultKind::BlackHole => {
            for connection in connections(hub, &fault.scope) {
                connection.silence();
            }
        }
        // States: the places they concern look for them.
        _ => {}
    }
}

fn connections(hub: &Hub, scope: &FaultScope) -> Vec<Arc<ConnectionEntry>> {
    match scope {
        FaultScope::All => hub.directory.connections(None),
        FaultScope::Device(device) => hub.directory.connections(Some(device)),
        FaultScope::Connection(id) => hub.directory.connection(*id).into_iter().collect(),
    }
}

fn sessions(hub: &Hub, scope: &FaultScope) -> Vec<Arc<crate::emulator::links::SessionEntry>> {
    match scope {
        FaultScope::All => hub.directory.sessions(None),
        FaultScope::Device(device) => hub.directory.sessions(Some(device)),
        FaultScope::Connection(id) => {
            let mut sessions = hub.directory.sessions(None);
            sessions.retain(|session| session.connection == *id);
            sessions
        }
    }
}

fn links(hub: &Hub, scope: &FaultScope) -> Vec<Arc<Link>> {
    match scope {
        FaultScope::All => hub.directory.links(None),
        FaultScope::Device(device) => hub.directory.links(Some(device)),
        FaultScope::Connection(_) => {
            let connections = connections(hub, scope);
            connections.iter().flat_map(|c| c.links()).collect()
        }
    }
}

fn stop(hub: &Hub, fault: &UnderWay, how: impl Fn() -> ConnectionStop) {
    for connection in connections(hub, &fault.scope) {
        if connection.stop.ask(how()) {
            hub.stats.connections_fault.inc();
        }
    }
}

fn detach(hub: &Hub, fault: &UnderWay, endpoint: Endpoint) {
    detach_if(hub, fault, |link| link.endpoint == endpoint);
}

/// One link of each pair.
fn detach_half(hub: &Hub, fault: &UnderWay, half: (Endpoint, Direction)) {
    detach_if(hub, fault, |link| (link.endpoint, link.direction) == half);
}

fn detach_if(hub: &Hub, fault: &UnderWay, hit: impl Fn(&Link) -> bool) {
    for link in links(hub, &fault.scope) {
        let error = match fault.value {
            "" => errors::killed(fault.name.name()),
            condition => errors::injected(condition),
        };
        if hit(&link) && link.stop.ask(error) {
            hub.stats.detaches_fault.inc();
        }
    }
}

fn detach_cbs(hub: &Hub, fault: &UnderWay, role: CbsRole) {
    for connection in connections(hub, &fault.scope) {
        for stop in connection.cbs_links(role) {
            if stop.ask(errors::killed(fault.name.name())) {
                hub.stats.detaches_fault.inc();
            }
        }
    }
}
