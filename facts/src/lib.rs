//! What one node knows of the pod network, as data: the questions that `manxctl` asks a node, and its answers.
//!
//! `manx-agent look QUESTION` answers on the node, in a process of its own; `manxctl` puts the answers of all nodes
//! together. Both sides may be of different versions: fields are only ever added, with a default.
