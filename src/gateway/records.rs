//! What is written down beside the traffic: refused messages, causes, spans.

use super::StartError;
use crate::config::Config;
use crate::hub::Hub;
use crate::listener::{Records, Shared};
use crate::router::refused::Folder;
use crate::telemetry::causes::Causes;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Tracer;
use crate::telemetry::trace::export::{self, Exporter};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Opens the folder and starts the exporter, as far as they are configured.
///
/// # Errors
/// When the folder cannot be used.
pub(super) fn open(
    config: &Config,
    hub: &Hub,
    causes: Arc<Causes>,
    metrics: &Arc<Metrics>,
) -> Result<(Records, Option<Exporter>), StartError> {
    let refused = refused_folder(config)?;
    let (tracer, exporter) = traces(config, metrics).unzip();
    let records = Records {
        refused,
        config: config.file.clone(),
        causes,
        hub: Some(hub.clone()),
        tracer,
    };
    Ok((records, exporter))
}

/// The way of spans out of the process, where one is configured.
fn traces(config: &Config, metrics: &Arc<Metrics>) -> Option<(Arc<Tracer>, Exporter)> {
    let otlp = config.otlp.clone()?;
    let (tracer, spans) = Tracer::new(otlp.sample_ratio, otlp.queue_spans, metrics.clone());
    let exporter = export::start(otlp, config.hub.host.clone(), spans, metrics.clone());
    Some((Arc::new(tracer), exporter))
}

/// How often it is told how many log lines were left out.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Tells it for as long as there is somebody to refuse devices.
pub(super) fn tell(shared: &Arc<Shared>) {
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(shared) = shared.upgrade() else {
                return;
            };
            shared.tell_left_out();
        }
    });
}

/// The folder of refused messages, where one is configured.
fn refused_folder(config: &Config) -> Result<Option<Arc<Folder>>, StartError> {
    let Some(path) = &config.refused_folder else {
        return Ok(None);
    };
    let opened = Folder::open(path, config.limits.refused_folder_bytes);
    let opened = opened.map_err(|error| StartError::Folder {
        path: path.display().to_string(),
        error,
    })?;
    Ok(Some(Arc::new(opened)))
}
