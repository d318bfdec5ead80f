//! The inside of a pod's network namespace.

use std::path::Path;

use manx_facts::kernel::KernelQuestion;
use manx_facts::pod::{PodInside, PodQuestion};
use manx_facts::record::Endpoint;
use manx_kernel::netns::NetNs;

use super::{kernel, record};

/// Looks into it.
pub(super) fn look(question: &PodQuestion, run_dir: &Path) -> PodInside {
    let record = record::look(run_dir);
    let endpoint = record.endpoints.into_iter().find(|endpoint| is_meant(endpoint, question));
    let path = question.netns.clone().or_else(|| endpoint.as_ref()?.netns.clone());
    let entered = match path {
        None => Err(match (record.unread, &endpoint) {
            (Some(why), _) => why,
            (None, Some(_)) => "the record does not say where the pod's namespace is".to_owned(),
            (None, None) => "the record knows no such pod".to_owned(),
        }),
        Some(path) => enter(&path),
    };
    match entered {
        Ok(inside) => PodInside { endpoint, unread: None, inside },
        Err(why) => PodInside { endpoint, unread: Some(why), ..PodInside::default() },
    }
}

fn enter(path: &str) -> Result<manx_facts::kernel::Kernel, String> {
    let namespace = NetNs::open(Path::new(path)).map_err(|error| error.to_string())?;
    namespace.within(|| kernel::look(&KernelQuestion::default())).map_err(|error| error.to_string())
}

fn is_meant(endpoint: &Endpoint, question: &PodQuestion) -> bool {
    match question.address {
        Some(address) => endpoint.addresses.contains(&address),
        None => {
            !question.pod.is_empty()
                && endpoint.pod == question.pod
                && endpoint.namespace == question.namespace
        }
    }
}
