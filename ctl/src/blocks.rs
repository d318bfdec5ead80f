//! `manxctl blocks`: which node has which block, how full it is, and since when.

use std::process::ExitCode;

use anyhow::Result;
use manx_api::{IPBlock, Timestamp};
use serde::Serialize;

use crate::Context;
use crate::cluster::{Cluster, Part};
use crate::pools::percent;
use crate::show::{Live, Page, Tone};
use crate::table::{Cell, Table, column, names, number};

/// Which blocks, and how they are shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl blocks --node node1
  manxctl blocks --pool pods-v4 -o wide    # with the addresses in use")]
pub(crate) struct Options {
    /// Only blocks of this pool.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Only blocks of this node.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    live: Live,
}

impl Options {
    fn wants(&self, block: &IPBlock) -> bool {
        self.pool.as_ref().is_none_or(|pool| *pool == block.spec.pool)
            && self.node.as_ref().is_none_or(|node| *node == block.spec.node)
    }
}

/// Lists them.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let find = |cluster: &Cluster| rows(cluster, |block| options.wants(block));
    context.each(&[Part::Blocks], options.live, find, |rows, page| table(rows, page)).await?;
    Ok(ExitCode::SUCCESS)
}

/// One block.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) cidr: String,
    pub(crate) pool: String,
    pub(crate) node: String,
    pub(crate) used: u32,
    pub(crate) free: u32,
    /// Of its addresses, in hundredths.
    pub(crate) percent: f64,
    /// When it was claimed.
    pub(crate) since: Option<Timestamp>,
    /// The other network that it comes from, until its node has taken it over.
    pub(crate) handed_over_by: Option<String>,
    pub(crate) allocations: Vec<manx_api::Allocation>,
}

/// The blocks that are wanted, in the order of their addresses.
pub(crate) fn rows(cluster: &Cluster, wanted: impl Fn(&IPBlock) -> bool) -> Vec<Row> {
    let mut blocks: Vec<&IPBlock> = cluster.blocks.iter().filter(|block| wanted(block)).collect();
    blocks.sort_by_key(|block| block.spec.cidr.network());
    blocks.into_iter().map(row).collect()
}

fn row(block: &IPBlock) -> Row {
    let status = block.status.clone().unwrap_or_default();
    let all = f64::from(status.used) + f64::from(status.free);
    Row {
        cidr: block.spec.cidr.to_string(),
        pool: block.spec.pool.clone(),
        node: block.spec.node.clone(),
        used: status.used,
        free: status.free,
        percent: if all > 0.0 { (f64::from(status.used) * 1000.0 / all).round() / 10.0 } else { 0.0 },
        since: block.metadata.creation_timestamp.as_ref().map(|time| time.0),
        handed_over_by: status.handed_over_by,
        allocations: status.allocations,
    }
}

/// A line for each.
pub(crate) fn table(rows: &[Row], page: &Page) -> String {
    let mut table = Table::new([
        column("BLOCK"),
        names("POOL"),
        names("NODE"),
        number("USED"),
        number("FREE"),
        number("FULL"),
        column("AGE"),
        column("ADDRESSES").wide(),
    ]);
    for row in rows {
        let full = percent(row.percent, row.used > 0);
        let given = row.allocations.iter().map(|one| match &one.pod {
            Some(pod) => format!("{}={pod}", one.address),
            None => one.address.to_string(),
        });
        table.row([
            Cell::from(&row.cidr),
            Cell::from(&row.pool),
            Cell::from(&row.node),
            row.used.into(),
            row.free.into(),
            if row.percent >= 80.0 { Cell::toned(full, Tone::Doubtful) } else { full.into() },
            row.since.map_or_else(|| "-".to_owned(), |time| page.ago(time)).into(),
            given.collect::<Vec<_>>().join(",").into(),
        ]);
    }
    table.render(page)
}

#[cfg(test)]
mod tests {
    use manx_api::IPBlockStatus;

    use super::*;

    #[test]
    fn blocks_are_in_the_order_of_their_addresses_and_can_be_asked_for_by_node() {
        let block = |cidr: &str, node: &str, used| {
            let mut block = IPBlock::claim(cidr.parse().expect("a CIDR"), node, "default");
            block.status = Some(IPBlockStatus { used, free: 64 - used, ..IPBlockStatus::default() });
            block
        };
        let blocks = vec![block("10.244.10.0/26", "b", 60), block("10.244.9.0/26", "a", 0)];
        let cluster = Cluster { blocks, ..Cluster::default() };
        assert_eq!(
            table(&rows(&cluster, |_| true), &Page::plain()),
            "BLOCK           POOL     NODE  USED  FREE  FULL  AGE\n\
             10.244.9.0/26   default  a        0    64    0%  -\n\
             10.244.10.0/26  default  b       60     4   94%  -\n"
        );
        let options = Options { pool: None, node: Some("b".to_owned()), live: Live::default() };
        assert_eq!(rows(&cluster, |block| options.wants(block)).len(), 1);
    }
}
