//! `manxctl pools`: every pool, and how full it is.

use std::process::ExitCode;

use anyhow::Result;
use kube::ResourceExt as _;
use manx_api::{AssignmentMode, IPPool, Timestamp, condition, is_true};
use serde::Serialize;

use crate::Context;
use crate::cluster::{Cluster, Part};
use crate::show::{Live, Page, Tone};
use crate::table::{Cell, Table, column, names, number};

/// How they are shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl pools               # how full is each pool?
  manxctl pools -o json | jq '.[] | select(.percent > 80)'")]
pub(crate) struct Options {
    #[command(flatten)]
    live: Live,
}

/// Lists them.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    context.each(&[Part::Pools, Part::Blocks], options.live, rows, |rows, page| table(rows, page)).await?;
    Ok(ExitCode::SUCCESS)
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cidr: String,
    pub(crate) block_size: u8,
    pub(crate) blocks: usize,
    pub(crate) used: i64,
    pub(crate) free: i64,
    pub(crate) capacity: i64,
    /// Of its addresses, in hundredths.
    pub(crate) percent: f64,
    /// It gives addresses to new pods; unset: no controller has said.
    pub(crate) ready: Option<bool>,
    /// The reason of Ready.
    pub(crate) reason: String,
    pub(crate) nearly_full: bool,
    pub(crate) automatic: bool,
    pub(crate) priority: i32,
    pub(crate) nat_outgoing: bool,
    pub(crate) advertise: bool,
    pub(crate) created: Option<Timestamp>,
}

/// Every pool.
pub(crate) fn rows(cluster: &Cluster) -> Vec<Row> {
    cluster.pools.iter().map(|pool| row(pool, cluster)).collect()
}

fn row(pool: &IPPool, cluster: &Cluster) -> Row {
    let name = pool.name_any();
    let status = pool.status.clone().unwrap_or_default();
    let ready = condition(&status.conditions, "Ready");
    let percent = match status.capacity {
        0 => 0.0,
        capacity => (status.used as f64 * 1000.0 / capacity as f64).round() / 10.0,
    };
    Row {
        cidr: pool.spec.cidr.to_string(),
        block_size: pool.spec.block_len(),
        blocks: cluster.blocks.iter().filter(|block| block.spec.pool == name).count(),
        used: status.used,
        free: status.free,
        capacity: status.capacity,
        percent,
        ready: ready.map(|ready| ready.status == "True"),
        reason: ready.map_or_else(|| "NoController".to_owned(), |ready| ready.reason.clone()),
        nearly_full: is_true(&status.conditions, "NearlyFull"),
        automatic: pool.spec.assignment_mode == AssignmentMode::Automatic,
        priority: pool.spec.priority,
        nat_outgoing: pool.spec.nat_outgoing,
        advertise: pool.spec.advertise,
        created: pool.metadata.creation_timestamp.as_ref().map(|time| time.0),
        name,
    }
}

/// A line for each.
pub(crate) fn table(rows: &[Row], page: &Page) -> String {
    let mut table = Table::new([
        names("POOL"),
        column("CIDR"),
        column("BLOCK"),
        number("BLOCKS").spare(1),
        number("USED"),
        number("FREE"),
        number("FULL"),
        column("READY"),
        column("MODE").wide(),
        number("PRIORITY").wide(),
        column("NAT").wide(),
        column("ADVERTISED").wide(),
        column("AGE").spare(2),
    ]);
    for row in rows {
        table.row(cells(row, page));
    }
    table.render(page)
}

fn cells(row: &Row, page: &Page) -> [Cell; 13] {
    let yes = |it: bool| if it { "yes" } else { "no" };
    [
        Cell::from(&row.name),
        Cell::from(&row.cidr),
        format!("/{}", row.block_size).into(),
        row.blocks.into(),
        row.used.into(),
        count(row.free).into(),
        match row.nearly_full {
            true => Cell::toned(percent(row.percent, row.used > 0), Tone::Doubtful),
            false => percent(row.percent, row.used > 0).into(),
        },
        match (row.ready, row.reason.as_str()) {
            (Some(true), _) => Cell::toned("True", Tone::Good),
            (_, "Disabled") => Cell::toned("Disabled", Tone::Quiet),
            (_, reason) => Cell::toned(reason, Tone::Bad),
        },
        if row.automatic { "Automatic" } else { "Manual" }.into(),
        row.priority.into(),
        yes(row.nat_outgoing).into(),
        yes(row.advertise).into(),
        row.created.map_or_else(|| "-".to_owned(), |time| page.ago(time)).into(),
    ]
}

/// In as few letters as make sense.
pub(crate) fn percent(percent: f64, any: bool) -> String {
    match percent {
        ..1.0 if !any => "0%".to_owned(),
        ..1.0 => "<1%".to_owned(),
        percent => format!("{percent:.0}%"),
    }
}

/// A number of addresses; those of IPv6 pools are of no interest to the last digit.
fn count(number: i64) -> String {
    match number {
        i64::MAX => ">9e18".to_owned(),
        1_000_000_000.. => format!("{:.1e}", number as f64),
        number => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use manx_api::{IPPoolStatus, set_condition};

    use super::*;

    #[test]
    fn a_pool_says_how_full_it_is_and_why_it_gives_nothing() {
        let mut pool = IPPool::example();
        let mut status = IPPoolStatus { capacity: 1000, used: 4, free: 996, ..Default::default() };
        let epoch = Timestamp::UNIX_EPOCH;
        set_condition(&mut status.conditions, "Ready", false, "Exhausted", "", None, epoch);
        pool.status = Some(status);
        let cluster = Cluster { pools: vec![pool], ..Cluster::default() };
        assert_eq!(
            table(&rows(&cluster), &Page::plain()),
            "POOL     CIDR           BLOCK  BLOCKS  USED  FREE  FULL  READY      AGE\n\
             pods-v4  10.244.0.0/16  /26         0     4   996   <1%  Exhausted  -\n"
        );
    }

    #[test]
    fn large_numbers_are_short() {
        assert_eq!(
            (count(65_000), count(1 << 40), count(i64::MAX)),
            ("65000".into(), "1.1e12".into(), ">9e18".into())
        );
        assert_eq!(
            (percent(0.0, false), percent(0.0, true), percent(94.6, true)),
            ("0%".into(), "<1%".into(), "95%".into())
        );
    }
}
