//! One page of metrics while it is written: values by the entries of the table of names.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric as Collected, Registry};

use super::names::{self, Metric};
use super::process::Process;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    component: &'static str,
    version: &'static str,
}

/// Everything that is shown, made for one answer.
#[derive(Default)]
pub(crate) struct Sheet {
    registry: Registry,
}

impl Sheet {
    /// The page.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => "# EOF\n".to_owned(),
        }
    }

    /// Shows what is kept elsewhere.
    pub(crate) fn kept(&mut self, metric: &Metric, kept: impl Collected) {
        let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
        self.registry.register(name, metric.meaning, kept);
    }

    /// Shows what the owner of a number has counted since its start.
    pub(crate) fn counter(&mut self, metric: &Metric, value: u64) {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        self.kept(metric, counter);
    }

    /// Shows a number.
    pub(crate) fn number(&mut self, metric: &Metric, value: impl TryInto<i64>) {
        let gauge: Gauge = Gauge::default();
        gauge.set(value.try_into().unwrap_or(i64::MAX));
        self.kept(metric, gauge);
    }

    /// Shows a number for each label.
    pub(crate) fn numbers<L>(&mut self, metric: &Metric, values: impl IntoIterator<Item = (L, i64)>)
    where
        L: Clone + Hash + Eq + EncodeLabelSet + Debug + Send + Sync + 'static,
    {
        let family = Family::<L, Gauge>::default();
        for (label, value) in values {
            family.get_or_create(&label).set(value);
        }
        self.kept(metric, family);
    }

    /// Shows for each label what its owner has counted.
    pub(crate) fn counters<L>(&mut self, metric: &Metric, values: impl IntoIterator<Item = (L, u64)>)
    where
        L: Clone + Hash + Eq + EncodeLabelSet + Debug + Send + Sync + 'static,
    {
        let family = Family::<L, Counter>::default();
        for (label, value) in values {
            family.get_or_create(&label).inc_by(value);
        }
        self.kept(metric, family);
    }

    /// Shows what every program has.
    pub(crate) fn program(&mut self, component: &'static str, process: Option<&Process>) {
        let build = BuildLabel { component, version: env!("CARGO_PKG_VERSION") };
        self.numbers(&names::BUILD, [(build, 1)]);
        let Some(process) = process else { return };
        let cpu: Counter<f64, AtomicU64> = Counter::default();
        cpu.inc_by(process.cpu_seconds);
        self.kept(&names::CPU, cpu);
        self.number(&names::START_TIME, process.started);
        self.number(&names::MEMORY, process.memory);
        self.number(&names::DESCRIPTORS, process.descriptors);
    }
}
