//! A client that writes frames by hand.

use crate::kit::soon;
use fe2o3_amqp::types::performatives::{Begin, Open};
use fe2o3_amqp::types::sasl::{SaslInit, SaslMechanisms, SaslOutcome};
use iothub_gateway::emulator::EmulatorHandle;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const AMQP: &[u8; 8] = b"AMQP\x00\x01\x00\x00";
pub const SASL: &[u8; 8] = b"AMQP\x03\x01\x00\x00";

pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn connect(hub: &EmulatorHandle) -> Self {
        Self(TcpStream::connect(hub.amqp_addr().unwrap()).await.unwrap())
    }

    pub async fn header(&mut self, header: &[u8; 8]) -> [u8; 8] {
        self.0.write_all(header).await.unwrap();
        let mut answer = [0; 8];
        soon("a header", self.0.read_exact(&mut answer))
            .await
            .unwrap();
        answer
    }

    pub async fn write<T: Serialize>(&mut self, kind: u8, performative: &T) {
        let body = serde_amqp::to_vec(performative).unwrap();
        let size = u32::try_from(body.len() + 8).unwrap();
        let frame = [&size.to_be_bytes()[..], &[2, kind, 0, 0], &body].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    pub async fn read<T: DeserializeOwned>(&mut self, kind: u8) -> T {
        let mut head = [0; 8];
        soon("a frame", self.0.read_exact(&mut head)).await.unwrap();
        assert_eq!(head[5], kind);
        let size = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        let mut body = vec![0; size - 8];
        soon("a frame", self.0.read_exact(&mut body)).await.unwrap();
        serde_amqp::from_slice(&body).unwrap()
    }

    pub async fn sasl(&mut self, mechanism: &str, response: Option<&str>) -> SaslOutcome {
        assert_eq!(&self.header(SASL).await, SASL);
        let mechanisms: SaslMechanisms = self.read(1).await;
        let names: Vec<_> = mechanisms
            .sasl_server_mechanisms
            .0
            .iter()
            .map(|symbol| symbol.as_str())
            .collect();
        assert_eq!(names, ["EXTERNAL", "MSSBCBS", "ANONYMOUS", "PLAIN"]);
        let initial_response = response.map(|text| text.as_bytes().to_vec().into());
        let init = SaslInit {
            mechanism: mechanism.into(),
            initial_response,
            hostname: None,
        };
        self.write(1, &init).await;
        self.read(1).await
    }
}

pub fn open(idle: Option<u32>) -> Open {
    Open {
        container_id: "raw".to_owned(),
        hostname: None,
        max_frame_size: 65_536.into(),
        channel_max: 10.into(),
        idle_time_out: idle,
        outgoing_locales: None,
        incoming_locales: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

pub fn begin(window: u32) -> Begin {
    Begin {
        remote_channel: None,
        next_outgoing_id: 0,
        incoming_window: window,
        outgoing_window: 100,
        handle_max: 100.into(),
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}
