//! Links of back ends: commands for devices, feedback about them, and the events devices sent, read
//! as an Event Hub (wire sheet §9.1, §9.2).

mod commands;
mod events;
mod feedback;
mod management;

pub(crate) use feedback::{Ack, Feedback, Outcome, Report};
pub(crate) use management::AnswerTo;

use crate::emulator::address::Node;
use crate::emulator::connection::Connection;
use crate::emulator::errors;
use crate::emulator::hub::Hub;
use crate::emulator::links::{Listed, ServiceLink};
use fe2o3_amqp::acceptor::LinkEndpoint;
use fe2o3_amqp::types::definitions::{Error, Role};
use fe2o3_amqp::types::performatives::Attach;
use management::{Answer, answers};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// A back end's link that may be attached.
pub(crate) struct Admitted {
    node: Node,
    start: events::Start,
    /// Where a management link wants its answers.
    reply_to: Option<String>,
}

/// A link that is listed.
pub(crate) struct Entered {
    link: Arc<ServiceLink>,
    listed: Listed,
    answers: Option<mpsc::Receiver<Answer>>,
}

/// Judges an attach: a token with ServiceConnect that covers the node, and room.
pub(crate) fn admit(
    node: Node,
    attach: &Attach,
    connection: &Connection,
) -> Result<Admitted, Error> {
    let hub = &connection.hub;
    let now = hub.now();
    if !connection.tokens().covering_service(&node.path(), now) {
        return Err(errors::unauthorized());
    }
    match (&node, &attach.role) {
        (Node::Management, _) => {}
        (Node::Commands, Role::Sender) => {}
        (Node::Feedback | Node::Partition { .. }, Role::Receiver) => {}
        (Node::Events, Role::Receiver) => return Err(redirect(hub)),
        (Node::Files, _) => return Err(errors::not_implemented("notifications of files")),
        _ => return Err(errors::not_allowed("The node does not go that way.")),
    }
    if let Node::Partition { hub: name, id, .. } = &node
        && (*name != hub.config.events.name || *id >= hub.config.events.partitions)
    {
        return Err(errors::unknown_address());
    }
    let open = hub.stats.links.get() + hub.stats.service_links.get();
    if open >= hub.config.limits.links as u64 {
        return Err(errors::too_many("links"));
    }
    let start = match &node {
        Node::Partition { .. } => events::Start::of(attach, hub)?,
        _ => events::Start::After(0),
    };
    Ok(Admitted {
        reply_to: management::reply_to(attach),
        node,
        start,
    })
}

/// Events are read elsewhere (wire sheet §9.2).
fn redirect(hub: &Hub) -> Error {
    let events = &hub.config.events;
    errors::redirect(&events.host, hub.events_port, &events.name)
}

impl Admitted {
    /// Events and answers need no outcome: a reader says itself from where it goes on.
    pub(crate) const fn sends_settled(&self) -> bool {
        matches!(self.node, Node::Partition { .. } | Node::Management)
    }

    pub(crate) fn enter(&self, session_id: u64, connection: &Arc<Connection>) -> Entered {
        let directory = &connection.hub.directory;
        let (link, listed) = directory.add_service_link(&connection.entry, self.node.clone());
        // Known before the client is: its first request may come before the next line.
        let answers = (self.node == Node::Management)
            .then(|| answers(session_id, self.reply_to.clone(), connection));
        Entered {
            link,
            listed,
            answers,
        }
    }

    /// Gives the attached link a task of its own.
    pub(crate) fn start(
        self,
        entered: Entered,
        endpoint: LinkEndpoint,
        session_id: u64,
        connection: &Arc<Connection>,
        tasks: &TaskTracker,
    ) {
        let hub = Arc::clone(&connection.hub);
        let place = (entered.link, entered.listed);
        match (self.node, endpoint) {
            (Node::Management, LinkEndpoint::Receiver(receiver)) => {
                let connection = Arc::clone(connection);
                let serving = management::serve_requests(receiver, place, session_id, connection);
                tasks.spawn(serving);
            }
            (Node::Management, LinkEndpoint::Sender(sender)) => {
                if let Some(answers) = entered.answers {
                    tasks.spawn(management::serve_answers(sender, place, answers));
                }
            }
            (_, LinkEndpoint::Receiver(receiver)) => {
                tasks.spawn(commands::serve(receiver, place, hub));
            }
            (Node::Partition { id, .. }, LinkEndpoint::Sender(sender)) => {
                tasks.spawn(events::serve(sender, place, (id, self.start), hub));
            }
            (_, LinkEndpoint::Sender(sender)) => {
                tasks.spawn(feedback::serve(sender, place, hub));
            }
        }
    }
}
