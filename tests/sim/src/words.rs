//! Messages in a few words, for the trace of a schedule.

use berth_wire::v1::{self, agent_message::Body as Up, change::Change, hub_message::Body as Down};

pub(crate) fn brief_up(message: &v1::AgentMessage) -> String {
    let key = |key: Option<&v1::Key>| key.map(|k| k.name.clone()).unwrap_or_default();
    match &message.body {
        Some(Up::Hello(hello)) => format!(
            "Hello {} synced={}",
            hello.cluster_uid,
            !hello.digests.is_empty()
        ),
        Some(Up::Delta(delta)) => {
            let changes: Vec<String> = delta
                .changes
                .iter()
                .map(|change| match &change.change {
                    Some(Change::Upsert(r)) => format!("+{}", key(r.key.as_ref())),
                    Some(Change::Delete(d)) => format!("-{}", key(d.key.as_ref())),
                    None => "?".into(),
                })
                .collect();
            format!("Delta {} {}", delta.sequence, changes.join(" "))
        }
        Some(Up::SnapshotPage(page)) => {
            let keys: Vec<String> = page.resources.iter().map(|r| key(r.key.as_ref())).collect();
            format!("Page {} {}", page.id, keys.join(" "))
        }
        Some(Up::SnapshotBegin(begin)) => format!("Begin {}", begin.id),
        Some(Up::SnapshotEnd(end)) => format!("End {} count={}", end.id, end.count),
        Some(Up::Source(source)) => format!("Source synced={}", source.synced),
        Some(Up::TurnRequest(_)) => "TurnRequest".into(),
        Some(Up::Heartbeat(_)) => "Heartbeat".into(),
        None => "nothing".into(),
    }
}

pub(crate) fn brief_down(message: &v1::HubMessage) -> String {
    match &message.body {
        Some(Down::Welcome(welcome)) => format!("Welcome {}", welcome.session),
        Some(Down::Answers(answers)) => {
            let answers: Vec<String> = answers
                .answers
                .iter()
                .map(|a| {
                    let key = a.key.as_ref().map(|k| k.name.clone()).unwrap_or_default();
                    let ips: Vec<&str> = a.ingress.iter().map(|i| i.ip.as_str()).collect();
                    format!(
                        "{key}@{:04x}={}{ips:?} {}",
                        a.generation & 0xffff,
                        a.outcome,
                        a.reason
                    )
                })
                .collect();
            format!("Answers {}", answers.join(", "))
        }
        Some(Down::ResyncRequired(resync)) => format!("ResyncRequired {}", resync.reason),
        Some(Down::Turn(turn)) => format!("Turn {}", turn.ahead),
        Some(Down::Heartbeat(beat)) => format!("Heartbeat {}", beat.sequence),
        Some(Down::Drain(_)) => "Drain".into(),
        Some(Down::Reissue(_)) => "Reissue".into(),
        Some(Down::Capabilities(_)) => "Capabilities".into(),
        None => "nothing".into(),
    }
}
