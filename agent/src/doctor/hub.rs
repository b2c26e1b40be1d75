//! The way to the hub, step by step, as far as is possible without opening a session: newest session wins, and a
//! doctor's would throw out the agent's.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use berth_common::tls::{ClientTls, Health};
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    dial::{Connection, Dialer},
    link::Ending,
    settings::AgentSettings,
};
use berth_common::doctor::Report;

/// For the one question that is asked.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn examine(settings: &AgentSettings, tls: Arc<ClientTls>, report: &mut Report) {
    certificate(&tls, report);
    let dialer = match Dialer::new(&settings.hub, tls) {
        Ok(dialer) => dialer,
        Err(error) => return report.fail("hub.serverName", error.to_string()),
    };
    let subject = format!("hub {}", dialer.address());
    let tcp = match dialer.tcp().await {
        Ok(tcp) => tcp,
        Err(error) => {
            return report.fail(
                subject,
                format!("{error}; is hub.address right, and does a firewall let it pass?"),
            );
        }
    };
    report.ok(subject.as_str(), "accepts TCP");
    let handshake = match dialer.handshake(tcp).await {
        Ok(handshake) => handshake,
        Err(error) => return report.fail(subject, error.to_string()),
    };
    report.ok(
        subject.as_str(),
        format!("its certificate is good for {}", settings.hub.server_name()),
    );
    match dialer.http2(handshake).await {
        Ok(connection) => ask(&subject, connection, report).await,
        // With TLS 1.3 the server's verdict on our certificate comes after our side of the handshake is done.
        Err(error) => report.fail(subject, error.to_string()),
    }
}

/// Who we are, and for how long.
fn certificate(tls: &ClientTls, report: &mut Report) {
    let current = tls.current();
    let leaf = &current.leaf;
    let health = tls.health(SystemTime::now());
    match leaf.uris.as_slice() {
        [uri] if uri.starts_with("spiffe://") && uri.contains("/tenant/") && leaf.name_count() == 1 => {
            let text = format!("{uri}, {health}");
            match health {
                Health::Good { .. } => report.ok("certificate", text),
                Health::Ageing { .. } => report.warn("certificate", text),
                Health::NotYetValid { .. } | Health::Expired { .. } => {
                    report.fail("certificate", format!("{text}; issue a new one with `berth-hub cert issue --tenant NAME`"));
                }
            }
        }
        uris => report.fail(
            "certificate",
            format!(
                "it names [{}], and must have exactly one name, spiffe://TRUST-DOMAIN/tenant/NAME: issue one with \
                 `berth-hub cert issue --tenant NAME`",
                uris.join(", ")
            ),
        ),
    }
}

async fn ask(subject: &str, connection: Connection, report: &mut Report) {
    let request = HealthCheckRequest {
        service: "berth.v1.AgentService".to_owned(),
    };
    match timeout(
        ASK_TIMEOUT,
        HealthClient::new(connection.channel).check(request),
    )
    .await
    {
        Ok(Ok(response)) => {
            let status = response.into_inner().status();
            let text = format!("knows our certificate, and says {}", status.as_str_name());
            match status {
                tonic_health::pb::health_check_response::ServingStatus::Serving => {
                    report.ok(subject, text)
                }
                _ => report.warn(
                    subject,
                    format!("{text}: it is starting, or not the leader of its group"),
                ),
            }
        }
        Ok(Err(status)) if matches!(status.code(), Code::Unimplemented | Code::NotFound) => {
            report.warn(
                subject,
                "knows our certificate, and does not tell its health",
            );
        }
        Ok(Err(status)) => report.fail(
            subject,
            Ending::of_status(&status, &connection.fate).to_string(),
        ),
        Err(_) => report.fail(
            subject,
            format!("no answer within {} s", ASK_TIMEOUT.as_secs()),
        ),
    }
}
