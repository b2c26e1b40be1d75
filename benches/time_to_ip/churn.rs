//! What one tenant's deletions cost the others: MetalLB writes every other Service's status anew whenever an address is given back,
//! and serves nobody meanwhile. One side deletes and creates a Service a second among many; how long do another's new ones wait?
//! Both ways find the same number of Services, one after the other. Knows the target; must not know how anything is set up.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_lab::lab::BRAVO;
use tokio::time::{interval_at, sleep_until};

use crate::ground::{Berth, Ground};
use crate::numbers::text;
use crate::phases::names;
use crate::report::Report;
use crate::rest::{FULL, rest};
use crate::side::{Burst, Side};
use crate::steps;
use crate::writes::Marks;

/// How long the slowest in a hundred of another tenant's new Services may wait through Berth, which is then faster than the
/// allocator that it has its addresses from.
const WAIT: Duration = Duration::from_millis(300);

/// Between two deletions, and between two Services of the other side.
const PACE: Duration = Duration::from_secs(1);

/// How much goes on.
pub(crate) struct Churn {
    /// Services that are there all the time.
    pub(crate) present: usize,
    /// For so long.
    pub(crate) seconds: usize,
}

/// What it came to.
struct Outcome {
    /// The other side's new Services.
    others: Burst,
    /// Those of the side that deletes.
    own: Burst,
}

impl Churn {
    /// Measures both ways, and leaves what is through Berth in place: nothing comes after this.
    pub(crate) async fn measure(
        &self,
        ground: &Ground,
        filter: &str,
        report: &mut Report,
    ) -> Result<()> {
        let Self { present, seconds } = self;
        println!("\n{present} present, one deleted and one created a second for {seconds} s");
        // Before anything is measured, for it has a whole cluster to run beside.
        let other = match &ground.berth {
            Some(_) => Some(Berth::of(&ground.lab, BRAVO, filter).await?),
            None => None,
        };
        let beside = Side::new(ground.lab.management()).await?;
        let direct = self.run(ground, "direct", &ground.direct, &beside).await?;
        let (Some(berth), Some(other)) = (&ground.berth, &other) else {
            return Ok(());
        };
        let left = self.oldest_first().split_off(*seconds);
        let new = names("new", *seconds);
        tokio::try_join!(ground.direct.delete(&left), beside.delete(&new))?;
        let through = self.run(ground, "Berth ", &berth.side, &other.side).await?;
        println!("          {}", steps::of(other, &new));
        if let Some(slowest) = steps::of_slowest(other, &new) {
            println!("          {slowest}");
        }
        compare(&direct, &through, report);
        Ok(())
    }

    /// One way: `mine` has the Services and deletes, `theirs` creates new ones.
    async fn run(&self, ground: &Ground, who: &str, mine: &Side, theirs: &Side) -> Result<Outcome> {
        let clusters = ground.clusters();
        rest(&clusters, FULL).await?;
        mine.burst(&names("present", self.present)).await?;
        rest(&clusters, FULL).await?;
        let before = Marks::now(ground).await?;
        let began = Instant::now();
        let (own, others) = tokio::try_join!(self.churn(mine, began), self.create(theirs, began))?;
        let (management, _) = before.until_now(ground, 2 * self.seconds).await?;
        println!("  {who}  another's new ones: {}", others.times);
        println!("          its own new ones: {}", own.times);
        println!(
            "          the last address {} after the beginning",
            text(others.last.max(own.last))
        );
        println!("          writes per Service until then, management: {management}");
        Ok(Outcome { others, own })
    }

    async fn churn(&self, side: &Side, began: Instant) -> Result<Burst> {
        let (old, new) = (self.oldest_first(), names("churned", self.seconds));
        let mut ticks = interval_at(began.into(), PACE);
        let mut created = Vec::new();
        for (old, new) in old.iter().zip(&new) {
            ticks.tick().await;
            side.begin_to_delete(old).await?;
            created.push(side.create(new).await?);
        }
        side.outcome(began, &new, created).await
    }

    async fn create(&self, side: &Side, began: Instant) -> Result<Burst> {
        let names = names("new", self.seconds);
        // Between the other side's deletions.
        let began = began + PACE / 2;
        sleep_until(began.into()).await;
        let mut ticks = interval_at(began.into(), PACE);
        let mut created = Vec::new();
        for name in &names {
            ticks.tick().await;
            created.push(side.create(name).await?);
        }
        side.outcome(began, &names, created).await
    }

    /// All Services of the side that deletes, as they are created and deleted.
    fn oldest_first(&self) -> Vec<String> {
        let mut all = names("present", self.present);
        all.extend(names("churned", self.seconds));
        all
    }
}

fn compare(direct: &Outcome, through: &Outcome, report: &mut Report) {
    let row = |what: &str| format!("beside deletions, {what}");
    let (theirs, ours) = (&direct.others.times, &through.others.times);
    report.limit(&row("p50"), theirs.p50(), ours.p50(), None);
    report.limit(&row("p99"), theirs.p99(), ours.p99(), Some(WAIT));
    let (theirs, ours) = (&direct.own.times, &through.own.times);
    report.limit(&row("own p99"), theirs.p99(), ours.p99(), None);
    let missing = through.others.missing + through.own.missing;
    if missing > 0 {
        report.failed(&row("without an address"), missing);
    }
}
