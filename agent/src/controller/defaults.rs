//! The objects to begin with: pools, BGP. They are made once from the files of a folder, as a ConfigMap is mounted, so
//! that one `kubectl apply -f` is all of an installation: kubectl itself does not know their kinds in the very call that
//! brings the definitions.
//!
//! Made once means once: what was made is listed in a ConfigMap, and what stands there is never made again, whoever
//! deleted or changed it. A cluster that has pools already when that list begins gets no other ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use manx_api::IPPool;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::hand::Hand;
use super::run::params;
use crate::node::cluster::{Cluster, Objects};
use crate::shell::kube::{bounded, status_of};
use crate::shell::objects::{Complaint, Files};

/// The ConfigMap that lists what was made.
const MADE: &str = "manx-defaults-made";
/// How often the files are looked at again.
const LOOK: Duration = Duration::from_secs(30);
/// The first pause after a failure, such as a definition that is not served yet; it doubles up to [`LOOK`].
const RETRY: Duration = Duration::from_secs(1);

/// Makes what the files of `folder` say, for as long as this replica leads.
pub(super) async fn run(client: Client, namespace: String, folder: Option<PathBuf>, hand: &Hand) {
    let Some(folder) = folder else { return std::future::pending().await };
    let mut files = Files::new(folder);
    let mut complaints = BTreeSet::new();
    let mut retry = RETRY;
    loop {
        files.refresh();
        let said = files.say();
        tell(&mut complaints, said.complaints);
        let maker = Maker { client: client.clone(), namespace: &namespace, hand };
        let pause = match maker.make(&said.cluster).await {
            Ok(()) => {
                retry = RETRY;
                LOOK
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "not all objects of --defaults can be made yet; it is tried again"
                );
                let pause = retry;
                retry = (retry * 2).min(LOOK);
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

fn tell(known: &mut BTreeSet<Complaint>, complaints: BTreeSet<Complaint>) {
    for complaint in complaints.difference(known) {
        tracing::error!(%complaint, "an object of --defaults is wrong and is not made: correct its file");
    }
    *known = complaints;
}

/// One look at what is missing.
struct Maker<'a> {
    client: Client,
    namespace: &'a str,
    hand: &'a Hand,
}

impl Maker<'_> {
    /// Pools come last: with the first of them nodes begin to announce, by rules that had better be there.
    async fn make(&self, wanted: &Cluster) -> anyhow::Result<()> {
        let mut names = keys(&wanted.configurations);
        names.extend(keys(&wanted.filters).into_iter().chain(keys(&wanted.peers)).chain(keys(&wanted.pools)));
        if names.is_empty() {
            return Ok(());
        }
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.namespace);
        let made = match bounded(maps.get_opt(MADE)).await? {
            Some(map) => map.data.unwrap_or_default(),
            None => self.begin(&maps, wanted).await?,
        };
        let outcomes = [
            self.make_all(&maps, &made, &wanted.configurations).await,
            self.make_all(&maps, &made, &wanted.filters).await,
            self.make_all(&maps, &made, &wanted.peers).await,
            self.make_all(&maps, &made, &wanted.pools).await,
        ];
        outcomes.into_iter().collect()
    }

    /// Begins the list.
    async fn begin(
        &self,
        maps: &Api<ConfigMap>,
        wanted: &Cluster,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let pools: Api<IPPool> = Api::all(self.client.clone());
        let any = !bounded(pools.list_metadata(&ListParams::default().limit(1))).await?.items.is_empty();
        let left_out = keys(&wanted.pools).into_iter().filter(|_| any);
        let data: BTreeMap<String, String> =
            left_out.map(|name| (name, "left out: the cluster had pools".to_owned())).collect();
        if !self.hand.may(|| format!("begin the ConfigMap {MADE}")) {
            return Ok(data);
        }
        if any {
            tracing::info!("the cluster has pools: those to begin with are left out");
        }
        let metadata = ObjectMeta { name: Some(MADE.to_owned()), ..ObjectMeta::default() };
        let map = ConfigMap { metadata, data: Some(data.clone()), ..ConfigMap::default() };
        let params = PostParams { field_manager: params().field_manager, ..PostParams::default() };
        bounded(maps.create(&params, &map)).await?;
        Ok(data)
    }

    /// Makes what is missing of one kind; one that is refused does not keep others from being made.
    async fn make_all<K>(
        &self,
        maps: &Api<ConfigMap>,
        made: &BTreeMap<String, String>,
        wanted: &Objects<K>,
    ) -> anyhow::Result<()>
    where
        K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let mut outcome = Ok(());
        for object in wanted.values().filter(|object| !made.contains_key(&entry(&***object))) {
            let name = entry(&**object);
            if !self.hand.may(|| format!("make {name}")) {
                continue;
            }
            let create = PostParams { field_manager: params().field_manager, ..PostParams::default() };
            let told = match bounded(api.create(&create, object)).await {
                Ok(_) => format!("made at {:.0}", Timestamp::now()),
                // Also: made by us, and then we ended before it was written down.
                Err(error) if status_of(&error) == Some(409) => "was there".to_owned(),
                Err(error) => {
                    outcome = Err(error.context(format!("making {name}")));
                    continue;
                }
            };
            tracing::info!(object = name, told, "an object to begin with");
            let patch = Patch::Merge(json!({ "data": { name: told } }));
            bounded(maps.patch(MADE, &PatchParams::default(), &patch)).await?;
        }
        outcome
    }
}

fn keys<K: Resource<DynamicType = ()>>(objects: &Objects<K>) -> BTreeSet<String> {
    objects.values().map(|object| entry(&**object)).collect()
}

/// How an object is called in the list.
fn entry<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{}.{}", K::kind(&()), object.name_any())
}
