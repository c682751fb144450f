//! The links of the fake hub, and the stream that can be frozen under them.

use super::fake::{Order, State, Telemetry, condition};
use crate::config::secret::Secret;
use crate::hub::encode;
use crate::hub::sas;
use crate::runtime::clock::Unix;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Body, Data, Message, MessageId, Properties,
};
use fe2o3_amqp::types::primitives::{OrderedMap, SimpleValue, Value};
use fe2o3_amqp::{Receiver, Sender};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// Cuts a stream from anywhere, at once.
#[derive(Clone, Debug, Default)]
pub struct Cutter(Arc<(AtomicBool, Mutex<Vec<Waker>>)>);

impl Cutter {
    pub fn cut(&self) {
        let mut wakers = self.0.1.lock().unwrap();
        self.0.0.store(true, Ordering::SeqCst);
        wakers.drain(..).for_each(Waker::wake);
    }

    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        let mut wakers = self.0.1.lock().unwrap();
        if self.0.0.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        Ok(())
    }
}

/// A stream that can be cut, and that stands still once the flag is set.
#[derive(Debug)]
pub struct Line<S> {
    pub stream: S,
    pub stalled: Arc<AtomicBool>,
    pub cutter: Cutter,
}

impl<S: Unpin> Line<S> {
    fn check<'a>(self: Pin<&'a mut Self>, cx: &Context<'_>) -> io::Result<Option<Pin<&'a mut S>>> {
        self.cutter.check(cx)?;
        let stalled = self.stalled.load(Ordering::SeqCst);
        Ok((!stalled).then(|| Pin::new(&mut self.get_mut().stream)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.check(cx)? {
            Some(stream) => stream.poll_read(cx, into),
            None => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.check(cx)? {
            Some(stream) => stream.poll_write(cx, bytes),
            None => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.check(cx)? {
            Some(stream) => stream.poll_flush(cx),
            None => Poll::Pending,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.check(cx)? {
            Some(stream) => stream.poll_shutdown(cx),
            None => Poll::Pending,
        }
    }
}

pub async fn cbs_in(
    state: Arc<State>,
    mut receiver: Receiver,
    replies: mpsc::Sender<(Option<MessageId>, i32)>,
) {
    while let Ok(delivery) = receiver.recv::<Body<Value>>().await {
        let _ = receiver.accept(&delivery).await;
        let message = delivery.into_message();
        let token = match message.body {
            Body::Value(value) => match value.0 {
                Value::String(text) => text,
                _ => String::new(),
            },
            _ => String::new(),
        };
        let se = token
            .split("&se=")
            .nth(1)
            .and_then(|rest| rest.split('&').next());
        let se = se.and_then(|se| se.parse().ok()).unwrap_or(0);
        let key = Secret::from(*state.key.lock().unwrap());
        let scope = "myhub.azure-devices.net/devices";
        let good = sas::mint(scope, "device", &key, Unix::from_secs(se));
        let status = if good.ct_eq(token.as_bytes()) {
            200
        } else {
            401
        };
        state.seen.send_modify(|seen| match status {
            200 => seen.tokens += 1,
            _ => seen.tokens_refused += 1,
        });
        let id = message
            .properties
            .and_then(|properties| properties.message_id);
        if state.mute_tokens.load(Ordering::SeqCst) {
            continue;
        }
        if replies.send((id, status)).await.is_err() {
            return;
        }
    }
}

pub async fn cbs_out(mut sender: Sender, mut replies: mpsc::Receiver<(Option<MessageId>, i32)>) {
    while let Some((id, status)) = replies.recv().await {
        let mut properties = Properties::new();
        properties.correlation_id = id;
        let mut map = OrderedMap::new();
        map.insert("status-code".to_owned(), SimpleValue::Int(status));
        let message = Message {
            header: None,
            delivery_annotations: None,
            message_annotations: None,
            properties: Some(properties),
            application_properties: Some(ApplicationProperties(map)),
            body: Data(Vec::new().into()),
            footer: None,
        };
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

pub async fn uplink(
    state: &State,
    mut receiver: Receiver,
    address: String,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut released = 0;
    loop {
        let delivery = tokio::select! {
            Some(order) = orders.recv() => match order {
                Order::Detach(symbol, words) => {
                    let _ = receiver.close_with_error(condition(symbol, words)).await;
                    return;
                }
                Order::Credit(credit) => {
                    let _ = receiver.set_credit(credit).await;
                    continue;
                }
                Order::Command(..) => continue,
            },
            delivery = receiver.recv::<Body<Value>>() => delivery,
        };
        let Ok(delivery) = delivery else {
            let _ = receiver.close().await;
            return;
        };
        let (info, message) = delivery.into_parts();
        let id = message
            .properties
            .as_ref()
            .and_then(|p| p.message_id.clone());
        let id = id.and_then(encode::message_id).unwrap_or_default();
        let body = match message.body {
            Body::Data(data) => data.into_iter().flat_map(|d| d.0.into_vec()).collect(),
            _ => Vec::new(),
        };
        let transfer = (address.clone(), id, body);
        let what = state.telemetry.lock().unwrap().get(&address).cloned();
        let what = what.unwrap_or(Telemetry::Accept);
        let accept = what == Telemetry::Accept || what == Telemetry::Release(released);
        // The ledger is written before the disposition leaves: what a test was told is in it.
        state.seen.send_modify(|seen| {
            seen.transfers.push(transfer.clone());
            if accept {
                seen.accepted.push(transfer);
            }
        });
        let _ = match what {
            _ if accept => receiver.accept(info).await,
            Telemetry::Release(_) => {
                released += 1;
                receiver.release(info).await
            }
            Telemetry::Reject(symbol) => receiver.reject(info, condition(symbol, "no")).await,
            Telemetry::Hold | Telemetry::Accept => Ok(()),
        };
    }
}

pub async fn downlink(mut sender: Sender, mut orders: mpsc::Receiver<Order>) {
    loop {
        let order = tokio::select! {
            Some(order) = orders.recv() => order,
            _ = sender.on_detach() => return,
        };
        match order {
            Order::Detach(symbol, words) => {
                let _ = sender.close_with_error(condition(symbol, words)).await;
                return;
            }
            Order::Credit(_) => {}
            Order::Command(body, outcome) => {
                let message = Message::builder().data(body.as_bytes().to_vec()).build();
                let Ok(sent) = sender.send_batchable(message).await else {
                    return;
                };
                tokio::spawn(async move {
                    if let Ok(settled) = sent.await {
                        let _ = outcome.send(settled);
                    }
                });
            }
        }
    }
}
