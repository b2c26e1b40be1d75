//! From a Service's creation to the first packet that is answered: through Berth, and with a Service made by hand in the
//! management cluster, in turns.

use std::time::Duration;

use anyhow::Result;
use berth_lab::Traffic;

use crate::ground::{Ground, PORT, SOON};
use crate::numbers::{Spread, text};
use crate::report::Report;
use crate::rest::FULL;

/// Between two attempts, and so how exactly the moment is known.
const PACE: Duration = Duration::from_millis(10);

/// kube-proxy's own pace: it takes changes in once a second.
const TARGET: Duration = Duration::from_millis(1_600);

/// One Service at a time, each way in turn; none is deleted between, so both find the same number.
pub(crate) async fn packet(ground: &Ground, rounds: usize, report: &mut Report) -> Result<()> {
    // What only the first pays: connections, and everybody's caches.
    one(ground, "warm", true).await?;
    one(ground, "warm", false).await?;
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for n in 0..rounds {
        let first = n % 2 == 0;
        for by_hand in [first, !first] {
            let took = one(ground, &format!("first-{n}"), by_hand).await?;
            match by_hand {
                true => direct.push(took),
                false => through.push(took),
            }
        }
    }
    let (direct, through) = (Spread::new(direct), Spread::new(through));
    println!("\ncreation to the first answered packet, {rounds} each way");
    println!("  by hand  {direct}");
    println!("  Berth    {through}");
    let sides = (Some(text(direct.p50())), text(through.p50()));
    let met = through.p50() <= TARGET;
    report.row(
        "creation to first packet, p50",
        sides,
        "≤ 1.60 s",
        "10.3 s",
        met,
    );
    let sides = (Some(text(direct.p99())), text(through.p99()));
    report.seen("creation to first packet, the longest", sides);
    Ok(())
}

async fn one(ground: &Ground, name: &str, by_hand: bool) -> Result<Duration> {
    ground.rest(FULL).await?;
    let (created, ip) = match by_hand {
        true => ground.direct(name).await?,
        false => ground.through(name).await?,
    };
    let url = format!("http://{ip}:{PORT}/");
    let traffic = Traffic::start(ground.lab.client(), &url, PACE);
    let answered = traffic.await_answer(created, SOON).await?.ended;
    traffic.stop().await?;
    Ok(answered - created)
}
