//! Each rule finds what it is for.

use super::{banned, layers, paths, single_makers, sizes};

#[test]
fn groups_are_spelled_out() {
    let text = "use crate::{auth::{self, identity::DeviceId}, hub};\nlet x = tokio::time::sleep;";
    let found = paths(text);
    for path in [
        "crate::auth::identity::DeviceId",
        "crate::hub",
        "tokio::time::sleep",
    ] {
        assert!(found.iter().any(|f| f == path), "{path} in {found:?}");
    }
}

#[test]
fn a_pure_module_that_names_a_driver_is_found() {
    assert_eq!(
        layers("src/mqtt/decode.rs", "use tokio::net::TcpStream;\n").len(),
        1
    );
    assert_eq!(
        layers("src/mqtt/decode.rs", "use crate::{config, hub::Hub};\n").len(),
        1
    );
    assert_eq!(
        layers("src/auth/sas.rs", "let now = clock::unix();\n").len(),
        1
    );
    assert!(layers("src/mqtt/decode.rs", "// tokio::net\nuse bytes::Bytes;\n").is_empty());
}

#[test]
fn the_engine_knows_amqp_time_and_secrets_and_nothing_else() {
    for used in [
        "tokio::time::sleep(d)",
        "crate::hub::sas::sign()",
        "fe2o3_amqp::Sender::new()",
    ] {
        assert!(!layers("src/amqp/link.rs", used).is_empty(), "{used}");
    }
    let text = "use crate::runtime::clock::Mono;\nuse fe2o3_amqp_types::performatives::Open;\n";
    assert!(layers("src/amqp/link.rs", text).is_empty());
    assert_eq!(
        layers("src/listener/conn.rs", "use serde_amqp::Value;\n").len(),
        1
    );
}

#[test]
fn the_library_that_judges_the_engine_is_named_by_the_emulator_alone() {
    let text = "use fe2o3_amqp::{Receiver, Sender};\n";
    for path in [
        "src/hub/driver/link.rs",
        "src/gateway.rs",
        "src/amqp/link.rs",
    ] {
        assert!(!layers(path, text).is_empty(), "{path}");
    }
    for path in ["src/emulator/links.rs", "src/hub/tests/fake.rs"] {
        assert!(layers(path, text).is_empty(), "{path}");
    }
    let types = "use fe2o3_amqp_types::messaging::Properties;\n";
    assert!(layers("src/hub/encode.rs", types).is_empty());
}

#[test]
fn the_emulator_may_share_nothing_but_the_clock_and_secrets() {
    assert_eq!(
        layers("src/emulator/cbs.rs", "use crate::hub::sas;\n").len(),
        1
    );
    assert!(
        layers(
            "src/emulator/cbs.rs",
            "use crate::config::secret::Secret;\n"
        )
        .is_empty()
    );
}

#[test]
fn the_load_generator_may_share_nothing_but_the_clock_and_secrets() {
    let text = "use crate::auth::sas;\nuse crate::mqtt::packet;\n";
    assert_eq!(layers("src/load/sas.rs", text).len(), 1);
    let text = "use crate::runtime::clock;\nuse crate::load::Options;\n";
    assert!(layers("src/load/sas.rs", text).is_empty());
}

#[test]
fn openssl_has_one_door_on_each_side() {
    for path in ["src/tls/x509.rs", "src/load/tls.rs"] {
        assert_eq!(layers(path, "use openssl::ssl::Ssl;\n").len(), 1);
    }
    assert!(layers("src/load/psk.rs", "use openssl::ssl::Ssl;\n").is_empty());
    assert!(layers("src/tls/psk.rs", "use openssl::ssl::Ssl;\n").is_empty());
}

#[test]
fn a_second_maker_of_a_proof_is_found() {
    assert_eq!(
        single_makers("src/listener/conn.rs", "HubAccepted(())").len(),
        1
    );
    assert_eq!(
        single_makers("src/hub/link.rs", "impl Receipt for Fake {}").len(),
        1
    );
    assert_eq!(
        single_makers("src/hub/link.rs", "let t = Instant::now();").len(),
        1
    );
    assert_eq!(
        single_makers("src/cli/x.rs", "AuthenticatedDevice { device }").len(),
        1
    );
}

#[test]
fn long_files_functions_and_lines_are_found() {
    let long = format!(
        "pub(crate) async fn f() {{\n{}}}\n",
        "    x();\n".repeat(70)
    );
    assert_eq!(sizes("src/a.rs", &long).len(), 1);
    assert_eq!(sizes("src/a.rs", &"\n".repeat(500)).len(), 1);
    assert_eq!(sizes("src/a.rs", &"x".repeat(101)).len(), 1);
}

#[test]
fn unfinished_business_is_found() {
    assert_eq!(banned("src/a.rs", "// TODO\n").len(), 1);
    assert_eq!(banned("src/a.rs", "info!(x = ?y)").len(), 1);
}
