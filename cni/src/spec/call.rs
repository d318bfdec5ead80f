//! The runtime's call, out of the environment variables.

use std::ffi::OsString;
use std::net::IpAddr;

use manx_kernel::names::{CONTAINER_ID_MAX, Mac};

use super::{Code, Error, Version};
use crate::rpc::{Attachment, PodRef};

/// Longest interface name, in bytes (`IFNAMSIZ` less its final zero).
const IFNAME_MAX: usize = 15;

/// What the runtime wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Make the link.
    Add(Target),
    /// Is the link as it should be?
    Check(Target),
    /// Remove the link.
    Del(Target),
    /// Remove the link of something that no ADD can ever have made one for, so that there is none.
    DelNothing,
    /// Can this node take pods?
    Status,
    /// Remove what the runtime no longer knows.
    Gc,
    /// Which versions are spoken here?
    Version,
}

/// The verbs without what they are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "see Call")]
pub enum Verb {
    Add,
    Check,
    Del,
    Status,
    Gc,
    Version,
}

impl Verb {
    /// The oldest version of the specification that has the verb.
    pub fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_1_0,
            Self::Check => Version::V0_4_0,
            Self::Status | Self::Gc => Version::V1_1_0,
        }
    }

    /// As it is written in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }
}

/// One interface of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The container id.
    pub container: String,
    /// The interface's name inside the pod.
    pub ifname: String,
    /// Path of the pod's network namespace. Never absent in ADD and CHECK, and not yet known to be one.
    pub netns: Option<String>,
    /// What `CNI_ARGS` says.
    pub args: PodArgs,
}

impl Target {
    /// The key under which everything about the interface is on record.
    pub fn attachment(&self) -> Attachment {
        Attachment { container: self.container.clone(), ifname: self.ifname.clone() }
    }
}

/// The contents of `CNI_ARGS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodArgs {
    /// The pod that the container belongs to.
    pub pod: Option<PodRef>,
    /// Addresses asked for.
    pub addresses: Vec<IpAddr>,
    /// Hardware address asked for.
    pub mac: Option<Mac>,
}

impl Call {
    /// Reads the call from environment variables, which `lookup` finds by name.
    ///
    /// # Errors
    /// If a variable that the verb needs is missing, or one has a value that cannot be right. All that are missing
    /// are named at once.
    pub fn parse(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let get = |name: &str| match lookup(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) => Ok((!value.is_empty()).then_some(value)),
            Some(Err(_)) => Err(invalid(name, "is not UTF-8")),
        };
        let command = get("CNI_COMMAND")?.ok_or_else(|| missing(&["CNI_COMMAND"]))?;
        match &*command {
            "ADD" => Ok(Self::Add(target(Verb::Add, get)?)),
            "CHECK" => Ok(Self::Check(target(Verb::Check, get)?)),
            "DEL" => del(get),
            "STATUS" => Ok(Self::Status),
            "GC" => Ok(Self::Gc),
            "VERSION" => Ok(Self::Version),
            _ => Err(invalid("CNI_COMMAND", "is none of ADD, CHECK, DEL, STATUS, GC, VERSION")),
        }
    }

    /// The verb of this call.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Add(_) => Verb::Add,
            Self::Check(_) => Verb::Check,
            Self::Del(_) | Self::DelNothing => Verb::Del,
            Self::Status => Verb::Status,
            Self::Gc => Verb::Gc,
            Self::Version => Verb::Version,
        }
    }
}

/// The target of ADD and CHECK, or of DEL, which asks for less: the namespace may be gone, and an ADD that failed over
/// its arguments must not be followed by a DEL that fails over them for ever.
fn target(verb: Verb, get: impl Fn(&str) -> Result<Option<String>, Error>) -> Result<Target, Error> {
    let container = get("CNI_CONTAINERID")?;
    let ifname = get("CNI_IFNAME")?;
    let netns = get("CNI_NETNS");
    // A path that is not UTF-8 leads nowhere that DEL would have to go.
    let netns = if verb == Verb::Del { netns.unwrap_or_default() } else { netns? };
    let absent = [
        ("CNI_CONTAINERID", container.is_none()),
        ("CNI_IFNAME", ifname.is_none()),
        ("CNI_NETNS", verb != Verb::Del && netns.is_none()),
    ];
    let absent: Vec<&str> = absent.into_iter().filter_map(|(name, absent)| absent.then_some(name)).collect();
    let (Some(container), Some(ifname), []) = (container, ifname, &*absent) else {
        return Err(missing(&absent));
    };
    check_container(&container)?;
    check_ifname(&ifname)?;
    let args = get("CNI_ARGS").and_then(|args| PodArgs::parse(&args.unwrap_or_default()));
    let args = if verb == Verb::Del { args.unwrap_or_default() } else { args? };
    Ok(Target { container, ifname, netns, args })
}

/// A DEL of what ADD refused must succeed, or the pod could never go.
fn del(get: impl Fn(&str) -> Result<Option<String>, Error>) -> Result<Call, Error> {
    let present = |name| get(name).map_or(true, |value| value.is_some());
    match target(Verb::Del, &get) {
        Ok(target) => Ok(Call::Del(target)),
        Err(_) if present("CNI_CONTAINERID") && present("CNI_IFNAME") => Ok(Call::DelNothing),
        Err(error) => Err(error),
    }
}

/// Checks a container id against the specification, and that it fits into a link's alias.
fn check_container(id: &str) -> Result<(), Error> {
    let rule = if !is_identifier(id) {
        "must begin with a letter or digit and have only letters, digits, '_', '.' and '-'".to_owned()
    } else if id.len() > CONTAINER_ID_MAX {
        format!("is longer than {CONTAINER_ID_MAX} characters")
    } else {
        return Ok(());
    };
    Err(invalid("CNI_CONTAINERID", rule))
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`: what the specification allows in container ids and network names.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Checks an interface name against what the kernel takes, before the kernel does something else with it.
fn check_ifname(name: &str) -> Result<(), Error> {
    let rule = if name.len() > IFNAME_MAX {
        "is longer than 15 characters"
    } else if name == "." || name == ".." {
        "cannot be \".\" or \"..\""
    } else if name == "all" || name == "default" {
        "cannot be \"all\" or \"default\": these name settings of the kernel"
    } else if name.contains('%') {
        "has a '%', which the kernel would replace by a number"
    } else if name.contains(['/', ':']) {
        "has a '/' or ':'"
    } else if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        "has a blank or a character that is not plain ASCII"
    } else {
        return Ok(());
    };
    Err(invalid("CNI_IFNAME", rule))
}

impl PodArgs {
    /// Reads `KEY=value;KEY=value`. Keys that are not known are an error unless `IgnoreUnknown` is set.
    fn parse(text: &str) -> Result<Self, Error> {
        let mut args = Self::default();
        let mut pod = (None, None, None);
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| invalid("CNI_ARGS", "is not of the form KEY=value;KEY=value"))?;
            match key {
                "IgnoreUnknown" => ignore_unknown = truth(value)?,
                "K8S_POD_NAMESPACE" => pod.0 = pod_word(key, value)?,
                "K8S_POD_NAME" => pod.1 = pod_word(key, value)?,
                "K8S_POD_UID" => pod.2 = pod_word(key, value)?,
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IP" => args.addresses = addresses(value)?,
                "MAC" => args.mac = Some(value.parse().map_err(|_| invalid("CNI_ARGS", "has a bad MAC"))?),
                _ => unknown.push(key),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            return Err(invalid(
                "CNI_ARGS",
                "has keys that are not known here, and IgnoreUnknown is not set",
            ));
        }
        args.pod = match pod {
            (Some(namespace), Some(name), uid) => Some(PodRef { namespace, name, uid }),
            (None, None, _) => None,
            _ => {
                return Err(invalid("CNI_ARGS", "names a pod without its namespace, or the other way round"));
            }
        };
        Ok(args)
    }
}

fn truth(value: &str) -> Result<bool, Error> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(invalid("CNI_ARGS", "has an IgnoreUnknown that is neither true nor false")),
    }
}

/// A namespace, name or UID. Kubernetes is stricter; this keeps blanks and slashes out of names and records.
fn pod_word(key: &str, value: &str) -> Result<Option<String>, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if value.len() > 253 || !value.bytes().all(plain) {
        return Err(invalid("CNI_ARGS", format!("has a {key} that is not a Kubernetes name")));
    }
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

fn addresses(value: &str) -> Result<Vec<IpAddr>, Error> {
    let parse = |text: &str| text.trim().split('/').next().unwrap_or_default().parse();
    let parsed: Result<Vec<IpAddr>, _> =
        value.split(',').filter(|text| !text.is_empty()).map(parse).collect();
    parsed.map_err(|_| invalid("CNI_ARGS", "has an IP that is not an address"))
}

fn missing(names: &[&str]) -> Error {
    let many = if names.len() == 1 { "variable" } else { "variables" };
    Error::new(Code::INVALID_ENVIRONMENT, format!("environment {many} {} missing", names.join(", ")))
        .details("a container runtime calls this program; to see its versions set CNI_COMMAND=VERSION")
}

fn invalid(name: &str, rule: impl AsRef<str>) -> Error {
    Error::new(Code::INVALID_ENVIRONMENT, format!("environment variable {name} {}", rule.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: [(&str, &str); 4] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/p"),
        ("CNI_IFNAME", "eth0"),
    ];

    /// Parses [`ADD`] with some variables replaced; an empty value is as good as none.
    fn parse(changes: &[(&str, &str)]) -> Result<Call, Error> {
        Call::parse(|name| {
            let of = |list: &[(&str, &str)]| {
                list.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            };
            of(changes).or_else(|| of(&ADD))
        })
    }

    fn add(changes: &[(&str, &str)]) -> Target {
        match parse(changes) {
            Ok(Call::Add(target)) => target,
            other => panic!("not an ADD: {other:?}"),
        }
    }

    #[test]
    fn a_call_of_kubelet_is_read_whole() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_INFRA_CONTAINER_ID=c1;\
                    K8S_POD_UID=0b6c;Whatever=x";
        let target = add(&[("CNI_ARGS", args)]);
        let pod = PodRef { namespace: "shop".into(), name: "cart-0".into(), uid: Some("0b6c".into()) };
        assert_eq!(target.args.pod, Some(pod));
        assert_eq!((&*target.container, &*target.ifname), ("c1", "eth0"));
        assert_eq!(target.netns.as_deref(), Some("/run/netns/p"));
    }

    #[test]
    fn addresses_and_a_hardware_address_may_be_asked_for() {
        let args = add(&[("CNI_ARGS", "IP=10.1.2.3/24,fd00::3;MAC=0a:58:0a:01:02:03")]).args;
        assert_eq!(args.addresses, ["10.1.2.3".parse::<IpAddr>().unwrap(), "fd00::3".parse().unwrap()]);
        assert_eq!(args.mac, "0a:58:0a:01:02:03".parse().ok());
    }

    #[test]
    fn all_missing_variables_are_named_at_once() {
        let error = parse(&[("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_IFNAME", "")]).unwrap_err();
        assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
        assert_eq!(error.msg, "environment variables CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS missing");
        assert!(parse(&[("CNI_COMMAND", "")]).unwrap_err().msg.contains("CNI_COMMAND missing"));
    }

    #[test]
    fn only_del_does_without_a_namespace() {
        for command in ["ADD", "CHECK"] {
            assert!(parse(&[("CNI_COMMAND", command), ("CNI_NETNS", "")]).is_err(), "{command}");
        }
        let Ok(Call::Del(target)) = parse(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]) else {
            panic!("not a DEL")
        };
        assert_eq!(target.netns, None);
    }

    #[test]
    fn status_gc_and_version_need_nothing_but_their_name() {
        for (command, call) in [("STATUS", Call::Status), ("GC", Call::Gc), ("VERSION", Call::Version)] {
            assert_eq!(Call::parse(|name| (name == "CNI_COMMAND").then(|| command.into())), Ok(call));
        }
    }

    #[test]
    fn interface_names_that_the_kernel_would_refuse_or_change_are_refused() {
        let bad = [
            "sixteen-bytes-xx",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "a\n",
            ".",
            "..",
            "eth%d",
            "eth\u{e9}",
            "all",
            "default",
        ];
        for name in bad {
            let error = parse(&[("CNI_IFNAME", name)]).expect_err(name);
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT, "{name:?}");
            assert!(error.msg.contains("CNI_IFNAME"), "{}", error.msg);
        }
        for name in ["eth0", "fifteen-bytes-x", "net.1", "0"] {
            add(&[("CNI_IFNAME", name)]);
        }
    }

    #[test]
    fn container_ids_outside_the_specification_are_refused() {
        let long = "x".repeat(CONTAINER_ID_MAX + 1);
        for id in ["-c", ".c", "_c", "a/b", "a:b", "a b", "../x", &*long] {
            let error = parse(&[("CNI_CONTAINERID", id)]).expect_err(id);
            assert!(error.msg.contains("CNI_CONTAINERID"), "{}", error.msg);
        }
        for id in ["c", "0", "A-b_c.d", &long[1..]] {
            add(&[("CNI_CONTAINERID", id)]);
        }
    }

    #[test]
    fn malformed_arguments_are_refused_and_never_repeated() {
        let bad = [
            "s3cret",
            "IP=s3cret",
            "MAC=s3cret",
            "IgnoreUnknown=s3cret",
            "Foo=s3cret",
            "K8S_POD_NAME=s3cret",
            "K8S_POD_NAMESPACE=s3cret",
            "K8S_POD_NAMESPACE=a/s3cret;K8S_POD_NAME=b",
        ];
        for args in bad {
            let error = parse(&[("CNI_ARGS", args)]).expect_err(args);
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT, "{args}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn del_does_not_fail_over_arguments_that_made_add_fail() {
        for args in ["what=ever", "IP=none", "K8S_POD_NAME=b"] {
            let call = parse(&[("CNI_COMMAND", "DEL"), ("CNI_ARGS", args)]);
            assert!(matches!(call, Ok(Call::Del(target)) if target.args == PodArgs::default()), "{args}");
        }
    }

    #[test]
    fn del_of_what_add_refuses_has_nothing_to_do_but_a_name_must_be_there() {
        for (name, value) in [("CNI_CONTAINERID", "../x"), ("CNI_IFNAME", "eth%d"), ("CNI_IFNAME", "a b")] {
            let call = parse(&[("CNI_COMMAND", "DEL"), (name, value)]);
            assert_eq!(call, Ok(Call::DelNothing), "{value}");
        }
        for name in ["CNI_CONTAINERID", "CNI_IFNAME"] {
            assert!(parse(&[("CNI_COMMAND", "DEL"), (name, "")]).is_err(), "{name}");
        }
    }

    #[test]
    fn an_unknown_command_is_refused() {
        assert_eq!(parse(&[("CNI_COMMAND", "add")]).unwrap_err().code, Code::INVALID_ENVIRONMENT);
    }
}
