//! How the lists of built-in objects merge: which are one value, which are sets, which have keys.

/// How the elements of a list are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListShape {
    /// The list is one value.
    Atomic,
    /// Each scalar is there once.
    Set,
    /// Elements are told apart by these of their fields.
    Map(&'static [&'static str]),
}

/// The shape of the list at a path such as `/status/conditions`; elements of lists add nothing to the path.
pub(crate) fn built_in(path: &str) -> ListShape {
    let of = |ends: &[&str]| ends.iter().any(|end| path.ends_with(end));
    if of(&["/metadata/finalizers", "/spec/podCIDRs", "/spec/finalizers"]) {
        ListShape::Set
    } else if of(&["/metadata/ownerReferences"]) {
        ListShape::Map(&["uid"])
    } else if of(&["/status/conditions", "/status/addresses"]) {
        ListShape::Map(&["type"])
    } else if of(&["/status/podIPs", "/status/hostIPs"]) {
        ListShape::Map(&["ip"])
    } else if of(&[
        "/containers",
        "/initContainers",
        "/ephemeralContainers",
        "/volumes",
        "/env",
        "/imagePullSecrets",
    ]) || path == "/secrets"
    {
        ListShape::Map(&["name"])
    } else if of(&["/containers/ports", "/initContainers/ports"]) {
        ListShape::Map(&["containerPort", "protocol"])
    } else if of(&["/volumeMounts"]) {
        ListShape::Map(&["mountPath"])
    } else if path == "/spec/ports" {
        ListShape::Map(&["port", "protocol"])
    } else {
        ListShape::Atomic
    }
}
