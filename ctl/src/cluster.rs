//! What the API server knows of the pod network: read once, or followed.

use anyhow::Result;
use manx_api::{IPBlock, IPPool, NodeNetwork};

use crate::Context;

/// All objects that reports are made from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    /// Every node that runs an agent.
    pub(crate) nodes: Vec<NodeNetwork>,
    /// Every pool.
    pub(crate) pools: Vec<IPPool>,
    /// Every claimed block.
    pub(crate) blocks: Vec<IPBlock>,
}

impl Cluster {
    /// Reads all of it.
    ///
    /// # Errors
    /// When the API server is away, or does not let us.
    pub(crate) async fn read(context: &Context) -> Result<Self> {
        let client = context.client().await?;
        let _progress = context.show.progress("reading the cluster");
        Ok(Self {
            nodes: crate::list::<NodeNetwork>(&client).await?,
            pools: crate::list::<IPPool>(&client).await?,
            blocks: crate::list::<IPBlock>(&client).await?,
        })
    }
}
