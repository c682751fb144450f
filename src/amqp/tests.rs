//! The engine against itself, against serde_amqp, against the library, and against hostile bytes.

mod codec;
mod cuts;
mod faults_attach;
mod faults_credit;
mod faults_dispositions;
mod faults_framing;
mod faults_idle;
mod faults_windows;
mod fuzz;
mod generate;
mod handshake;
mod library;
mod pair;
mod story;
