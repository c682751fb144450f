//! Methods and twins of the fake hub: what devices say is heard, and a test answers.

use fe2o3_amqp::acceptor::LinkEndpoint;
use fe2o3_amqp::types::messaging::annotations::OwnedKey;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Body, Data, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp::types::primitives::{OrderedMap, SimpleValue, Value};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// What a device said.
#[derive(Debug)]
pub struct Heard {
    pub address: String,
    /// The values of its annotations: operation, resource, version.
    pub annotations: Vec<Value>,
    /// `IoThub-status`.
    pub status: Option<SimpleValue>,
    pub id: MessageId,
    pub body: Vec<u8>,
}

impl Heard {
    pub fn operation(&self) -> &str {
        match self.annotations.first() {
            Some(Value::String(operation)) => operation,
            other => panic!("{other:?}"),
        }
    }
}

pub type Told = Message<Data>;

/// The links of methods and twins that are attached.
pub struct Services {
    hears: mpsc::Sender<Heard>,
    heard: tokio::sync::Mutex<mpsc::Receiver<Heard>>,
    tellers: Mutex<HashMap<String, mpsc::Sender<Told>>>,
    /// Grows with each link that is attached.
    attached: watch::Sender<u32>,
    /// Channel ids, in the order of attaches.
    pub channels: Mutex<Vec<String>>,
}

impl Default for Services {
    fn default() -> Self {
        let (hears, heard) = mpsc::channel(64);
        Self {
            hears,
            heard: heard.into(),
            tellers: Mutex::default(),
            attached: watch::Sender::default(),
            channels: Mutex::default(),
        }
    }
}

impl Services {
    pub fn serves(address: &str) -> bool {
        address.ends_with("/twin") || address.ends_with("/methods/devicebound")
    }

    /// Runs a link until its end.
    pub fn attach(
        &self,
        address: String,
        link: LinkEndpoint,
        ended: impl FnOnce() + Send + 'static,
    ) {
        match link {
            LinkEndpoint::Receiver(mut receiver) => {
                let hears = self.hears.clone();
                tokio::spawn(async move {
                    while let Ok(delivery) = receiver.recv::<Body<Value>>().await {
                        let (info, message) = delivery.into_parts();
                        let _ = hears.try_send(heard(&address, message));
                        let _ = receiver.accept(info).await;
                    }
                    let _ = receiver.close().await;
                    ended();
                });
            }
            LinkEndpoint::Sender(mut sender) => {
                let (tell, mut to_tell) = mpsc::channel(64);
                self.tellers.lock().unwrap().insert(address, tell);
                tokio::spawn(async move {
                    loop {
                        let message: Option<Told> = tokio::select! {
                            message = to_tell.recv() => message,
                            _ = sender.on_detach() => break,
                        };
                        let Some(message) = message else { break };
                        if sender.send(message).await.is_err() {
                            break;
                        }
                    }
                    let _ = sender.close().await;
                    ended();
                });
            }
        }
        self.attached.send_modify(|count| *count += 1);
    }

    /// The next thing a device said.
    pub async fn hear(&self) -> Heard {
        let mut heard = self.heard.lock().await;
        let next = tokio::time::timeout(Duration::from_secs(20), heard.recv());
        next.await.expect("something is said in time").unwrap()
    }

    /// Waits until so many links have been attached.
    pub async fn until_attached(&self, links: u32) {
        let mut attached = self.attached.subscribe();
        let wait = attached.wait_for(|count| *count >= links);
        let wait = tokio::time::timeout(Duration::from_secs(20), wait).await;
        wait.expect("attached in time").unwrap();
    }

    pub fn tell(&self, address: &str, message: Told) {
        let tellers = self.tellers.lock().unwrap();
        tellers[address].try_send(message).expect("a link");
    }

    /// Hears a request to a twin of this operation and answers it.
    pub async fn answer(&self, operation: &str, status: i32, body: &str) {
        let heard = self.hear().await;
        assert_eq!(heard.operation(), operation);
        let message = twin_answer(heard.id, status, None, body);
        self.tell(&heard.address, message);
    }
}

fn heard(address: &str, message: Message<Body<Value>>) -> Heard {
    let annotations = message.message_annotations.into_iter().flat_map(|a| a.0);
    let body = match message.body {
        Body::Data(data) => data.into_iter().flat_map(|d| d.0.into_vec()).collect(),
        _ => Vec::new(),
    };
    let status = message.application_properties;
    Heard {
        address: address.to_owned(),
        annotations: annotations.map(|(_, value)| value).collect(),
        status: status.and_then(|p| p.get("IoThub-status").cloned()),
        id: message.properties.unwrap().correlation_id.unwrap(),
        body,
    }
}

fn told(id: Option<MessageId>, body: &str) -> Told {
    let properties = id.map(|id| Properties {
        correlation_id: Some(id),
        ..Properties::default()
    });
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties,
        application_properties: None,
        body: Data(body.as_bytes().to_vec().into()),
        footer: None,
    }
}

pub fn method(id: MessageId, name: &str, body: &str) -> Told {
    let mut message = told(Some(id), body);
    let mut map = OrderedMap::new();
    let name = SimpleValue::String(name.to_owned());
    map.insert("IoThub-methodname".to_owned(), name);
    message.application_properties = Some(ApplicationProperties(map));
    message
}

pub fn twin_answer(id: MessageId, status: i32, version: Option<i64>, body: &str) -> Told {
    let mut message = told(Some(id), body);
    let mut map = OrderedMap::new();
    map.insert(OwnedKey::from("status"), Value::Int(status));
    if let Some(version) = version {
        map.insert(OwnedKey::from("version"), Value::Long(version));
    }
    message.message_annotations = Some(MessageAnnotations(map));
    message
}

pub fn push(body: &str) -> Told {
    told(None, body)
}
