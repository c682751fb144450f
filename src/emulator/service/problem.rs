//! Answers that are not a success, in the service's forms (wire sheet §9.3): a header that names the
//! error, and a body whose message begins with that name or, where a device was called, is JSON
//! within JSON. Node's client goes by the name, others by the number.

use crate::emulator::devices::RegistryError;
use crate::emulator::errors;
use crate::emulator::methods::CallError;
use crate::emulator::twin::TwinError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a request failed.
#[derive(Debug)]
pub(super) struct Problem {
    status: u16,
    code: u32,
    name: &'static str,
    message: String,
    /// The message is JSON.
    nested: bool,
}

impl Problem {
    pub(super) fn new(
        status: u16,
        code: u32,
        name: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code,
            name,
            message: message.into(),
            nested: false,
        }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(400, 400_004, "ArgumentInvalid", message)
    }

    pub(super) fn device_not_found(device: &str) -> Self {
        let message = format!("Device {device} not registered");
        Self::new(404, 404_001, "DeviceNotFound", message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let body = match self.nested {
            true => json!({
                "Message": errors::json(self.code, &self.message),
                "ExceptionMessage": "",
            }),
            false => json!({
                "Message": format!("ErrorCode:{};{}", self.name, self.message),
                "ExceptionMessage": errors::tracking(),
            }),
        };
        (status, [("iothub-errorcode", self.name)], Json(body)).into_response()
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::DeviceNotFound(_) => Self::new(404, 404_001, "DeviceNotFound", message),
            RegistryError::ModuleNotFound(..) => Self::new(404, 404_010, "ModuleNotFound", message),
            RegistryError::DeviceExists(_) => {
                Self::new(409, 409_001, "DeviceAlreadyExists", message)
            }
            RegistryError::ModuleExists(_) => {
                Self::new(409, 409_301, "ModuleAlreadyExistsOnDevice", message)
            }
            RegistryError::TooManyModules(_) => {
                Self::new(409, 409_302, "TooManyModulesOnDevice", message)
            }
            RegistryError::Changed => Self::new(412, 412_001, "PreconditionFailed", message),
            RegistryError::BadId => Self::new(400, 400_004, "ArgumentInvalid", message),
            RegistryError::Full => Self::new(403, 403_002, "IotHubQuotaExceeded", message),
        }
    }
}

impl From<TwinError> for Problem {
    fn from(error: TwinError) -> Self {
        let (status, code) = error.codes();
        let name = match &error {
            TwinError::Version => "PreconditionFailed",
            TwinError::Invalid(_) => "ArgumentInvalid",
            TwinError::TooLarge(..) => "MessageTooLarge",
            TwinError::Full => "IotHubQuotaExceeded",
        };
        let status = u16::try_from(status).unwrap_or(500);
        Self::new(status, code, name, error.to_string())
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let (status, code, message) = error.codes();
        let name = match error {
            CallError::NotOnline => "DeviceNotOnline",
            CallError::TimedOut => "GatewayTimeout",
            CallError::Busy => "ThrottleBacklogLimitExceeded",
        };
        Self {
            nested: true,
            ..Self::new(status, code, name, message)
        }
    }
}
