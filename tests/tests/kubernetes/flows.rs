//! Pings that go on while something is done, and must lose nothing.

use anyhow::{Result, ensure};
use manx_tests::kubernetes::{Cluster, LivingPod, Node};
use manx_tests::lab::probe::Stream;

/// The least that each stream sends for its silence to mean something.
const ENOUGH: u64 = 50;

/// Pings every 10 ms, each with the words for its way.
pub(crate) struct Flows<'a> {
    cluster: &'a Cluster,
    streams: Vec<(String, Stream)>,
}

impl<'a> Flows<'a> {
    /// From each of `pods` to the next one, and from the host outside to all.
    pub(crate) fn around(cluster: &'a Cluster, pods: &[LivingPod]) -> Result<Self> {
        let mut flows = Self { cluster, streams: Vec::new() };
        for (at, from) in pods.iter().enumerate() {
            let to = &pods[(at + 1) % pods.len()];
            flows.start_between(from, to)?;
            flows.start_from(&cluster.netns("outside"), to)?;
        }
        Ok(flows)
    }

    /// To all of `pods` from the host outside and the nodes in turn, and from the first of them to all others.
    pub(crate) fn from_everywhere(cluster: &'a Cluster, pods: &[LivingPod]) -> Result<Self> {
        let mut flows = Self { cluster, streams: Vec::new() };
        let mut from = vec![cluster.outside().netns];
        from.extend(cluster.nodes().iter().map(Node::netns));
        for (to, host) in pods.iter().zip(from.iter().cycle()) {
            flows.start_from(host, to)?;
        }
        if let [first, others @ ..] = pods {
            others.iter().try_for_each(|to| flows.start_between(first, to))?;
        }
        Ok(flows)
    }

    fn start_between(&mut self, from: &LivingPod, to: &LivingPod) -> Result<()> {
        for address in &to.addresses {
            let what = format!("{} on {} to {} on {}", from.name, from.node, to.name, to.node);
            let ping = self.cluster.pod_command(&from.name, "ping")?;
            let stream = Stream::of(ping, *address, &self.log())?;
            self.streams.push((what, stream));
        }
        Ok(())
    }

    fn start_from(&mut self, netns: &str, to: &LivingPod) -> Result<()> {
        for address in &to.addresses {
            let stream = Stream::start(netns, *address, &self.log())?;
            self.streams.push((format!("{netns} to {} on {}", to.name, to.node), stream));
        }
        Ok(())
    }

    /// Where the next stream writes.
    fn log(&self) -> std::path::PathBuf {
        self.cluster.dir().join(format!("flow-{}", self.streams.len()))
    }

    /// Ends them; fails when one of them lost anything.
    pub(crate) fn none_lost(self) -> Result<()> {
        let mut lost = Vec::new();
        let mut sent = 0;
        for (what, stream) in self.streams {
            let count = stream.stop()?;
            sent += count.sent;
            ensure!(count.sent > ENOUGH, "{what}: only {} pings were sent", count.sent);
            if !count.lost.is_empty() {
                lost.push(format!(
                    "{what}: {} of {}, from number {}",
                    count.lost.len(),
                    count.sent,
                    count.lost[0]
                ));
            }
        }
        ensure!(lost.is_empty(), "pings were lost:\n{}", lost.join("\n"));
        println!("{sent} pings, none lost");
        Ok(())
    }
}
