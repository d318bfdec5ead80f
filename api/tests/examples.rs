//! The examples that people copy are read by the types, and the first of each file is the type's own example.

use std::path::Path;

use manx_api::{BGPConfiguration, BGPFilter, BGPPeer, IPBlock, IPClaim, IPPool, NodeNetwork};
use serde::de::DeserializeOwned;

#[test]
fn each_file_holds_objects_of_its_kind_and_begins_with_the_example() {
    assert_eq!(read::<IPPool>("ippool.yaml")[0], IPPool::example());
    assert_eq!(read::<IPBlock>("ipblock.yaml")[0], IPBlock::example());
    assert_eq!(read::<IPClaim>("ipclaim.yaml")[0], IPClaim::example());
    assert_eq!(read::<BGPConfiguration>("bgpconfiguration.yaml")[0], BGPConfiguration::example());
    assert_eq!(read::<BGPPeer>("bgppeer.yaml")[0], BGPPeer::example());
    assert_eq!(read::<BGPFilter>("bgpfilter.yaml")[0], BGPFilter::example());
    assert_eq!(read::<NodeNetwork>("nodenetwork.yaml")[0], NodeNetwork::example());
}

fn read<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(file);
    let text = std::fs::read_to_string(&path).expect("an example file");
    serde_yaml_ng::Deserializer::from_str(&text)
        .map(|document| T::deserialize(document).unwrap_or_else(|error| panic!("{file}: {error}")))
        .collect()
}
