//! The network configuration on standard input.
//!
//! Read field by field out of a parsed JSON value: a typed decoder would repeat the values that it does not like in
//! its messages, and standard input belongs to others as well.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use manx_kernel::names::Mac;
use serde_json::{Map, Value};

use super::call::is_identifier;
use super::{Code, Dns, Error, Success, Verb, Version};
use crate::rpc::{Attachment, DEFAULT_RUN_DIR};

/// Longest configuration that is read, in bytes. A list of attachments for GC makes up most of a long one.
pub const CONFIG_MAX: usize = 4 << 20;

/// MTUs that a veth takes and IPv4 works with (RFC 791 §3.1), in bytes.
const MTU: std::ops::RangeInclusive<u64> = 68..=65_535;

/// A network configuration as the runtime passes it to one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConf {
    /// The version that the runtime speaks.
    pub version: Version,
    /// The network's name.
    pub name: String,
    /// Where the agent's socket and the tombstones are.
    pub run_dir: PathBuf,
    /// MTU of both ends in bytes, where the agent's own finding shall not hold.
    pub mtu: Option<u32>,
    /// Addresses asked for by the `ips` capability, or by convention in `args`.
    pub addresses: Vec<IpAddr>,
    /// Hardware address asked for by the `mac` capability.
    pub mac: Option<Mac>,
    /// Name service for the result.
    pub dns: Dns,
    /// What the plugins before this one (ADD) or all plugins (CHECK, DEL) made.
    pub previous: Option<Success>,
    /// GC: the attachments that are still in use.
    pub valid: Vec<Attachment>,
}

impl NetConf {
    /// Reads a configuration for a verb.
    ///
    /// # Errors
    /// If it is not JSON, is of a version without the verb, or lacks or has what makes the verb impossible. Never for
    /// DEL.
    pub fn parse(verb: Verb, stdin: &[u8]) -> Result<Self, Error> {
        match Self::parse_strictly(verb, stdin) {
            // All that DEL has to know is in its environment. A configuration that was spoilt after ADD must not keep
            // a pod from stopping.
            Err(_) if verb == Verb::Del => Ok(Self::of_del(stdin)),
            parsed => parsed,
        }
    }

    /// What can be made of a configuration that is not one.
    fn of_del(stdin: &[u8]) -> Self {
        let config: Value = serde_json::from_slice(stdin).unwrap_or_default();
        let object = config.as_object().cloned().unwrap_or_default();
        let fields = Fields { path: "", object: &object };
        let version = fields.text("cniVersion").ok().flatten().and_then(|text| text.parse().ok());
        Self {
            version: version.unwrap_or(Version::NEWEST),
            name: fields.name().unwrap_or_default(),
            run_dir: fields.run_dir().unwrap_or_else(|_| DEFAULT_RUN_DIR.into()),
            mtu: None,
            addresses: Vec::new(),
            mac: None,
            dns: Dns::default(),
            previous: None,
            valid: Vec::new(),
        }
    }

    fn parse_strictly(verb: Verb, stdin: &[u8]) -> Result<Self, Error> {
        let config: Value = serde_json::from_slice(stdin).map_err(|error| {
            Error::new(Code::DECODE, "the network configuration on standard input is not JSON")
                .details(format!("line {} column {}", error.line(), error.column()))
        })?;
        let Value::Object(object) = &config else {
            return Err(Error::new(Code::DECODE, "the network configuration is not a JSON object"));
        };
        let fields = Fields { path: "", object };
        let version: Version = fields.text("cniVersion")?.ok_or_else(no_version)?.parse()?;
        if version < verb.since() {
            return Err(Error::new(
                Code::INCOMPATIBLE_VERSION,
                format!("{} needs cniVersion {} or later, not {version}", verb.as_str(), verb.since()),
            ));
        }
        let name = fields.name()?;
        fields.check_type()?;
        let mut config = Self {
            version,
            name,
            run_dir: fields.run_dir()?,
            mtu: None,
            addresses: Vec::new(),
            mac: None,
            dns: Dns::default(),
            previous: None,
            valid: fields.valid_attachments(verb)?,
        };
        // What only ADD needs cannot keep a pod from stopping: that ADD failed, and this DEL cleans up after it.
        if !matches!(verb, Verb::Del | Verb::Gc) {
            fields.refuse_delegation()?;
            config.mtu = fields.mtu()?;
            config.addresses = fields.addresses()?;
            config.mac = fields.mac()?;
            config.dns = fields.typed("dns", "CNI name service")?.unwrap_or_default();
            config.previous = fields.previous()?;
        }
        if verb == Verb::Check && config.previous.is_none() {
            return Err(invalid("prevResult", "is missing: CHECK compares the pod with it"));
        }
        Ok(config)
    }
}

/// An object inside the configuration, and where it is.
struct Fields<'a> {
    path: &'static str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// A field that is there and not null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.mistyped(key, "a string"))
    }

    fn object(&self, key: &str, path: &'static str) -> Result<Option<Self>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.mistyped(key, "an object"))?;
        Ok(Some(Fields { path, object }))
    }

    fn texts(&self, key: &str) -> Result<Vec<&'a str>, Error> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let list: Option<Vec<&str>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        list.ok_or_else(|| self.mistyped(key, "a list of strings"))
    }

    fn typed<T: serde::de::DeserializeOwned>(&self, key: &str, what: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        serde_json::from_value(value.clone()).map(Some).map_err(|_| self.mistyped(key, &format!("a {what}")))
    }

    fn mistyped(&self, key: &str, what: &str) -> Error {
        Error::new(
            Code::DECODE,
            format!("field \"{}{key}\" of the network configuration is not {what}", self.path),
        )
    }

    fn name(&self) -> Result<String, Error> {
        match self.text("name")? {
            None | Some("") => Err(invalid("name", "is missing: every network needs one")),
            Some(name) if is_identifier(name) && name.len() <= 200 => Ok(name.to_owned()),
            Some(_) => Err(invalid(
                "name",
                "must begin with a letter or digit and have only letters, digits, '_', '.' and '-', at most 200",
            )),
        }
    }

    /// The runtime executed what `type` names. Nothing here does, and a path in it shows an attempt to make one.
    fn check_type(&self) -> Result<(), Error> {
        match self.text("type")? {
            None | Some("") => Err(invalid("type", "is missing")),
            Some(name) if is_identifier(name) => Ok(()),
            Some(_) => Err(invalid("type", "is not the plain name of a plugin")),
        }
    }

    /// An `ipam` section would be silently without effect: its addresses are not the ones that pods would get.
    fn refuse_delegation(&self) -> Result<(), Error> {
        match self.object("ipam", "ipam.")? {
            Some(ipam) if !ipam.object.is_empty() => {
                let kind = ipam.text("type").ok().flatten().filter(|kind| is_identifier(kind)).unwrap_or("…");
                let msg = format!("field \"ipam\" is not supported (its type is \"{kind}\")");
                Err(Error::new(Code::UNSUPPORTED_FIELD, msg).details(
                    "addresses come from the pools of the cluster (kubectl get ippools); leave \"ipam\" out",
                ))
            }
            _ => Ok(()),
        }
    }

    fn previous(&self) -> Result<Option<Success>, Error> {
        let previous: Option<Success> = self.typed("prevResult", "CNI result")?;
        match previous {
            Some(previous) if !previous.is_consistent() => {
                Err(invalid("prevResult", "has an address of an interface that it does not have"))
            }
            previous => Ok(previous),
        }
    }

    fn run_dir(&self) -> Result<PathBuf, Error> {
        let path = PathBuf::from(self.text("runDir")?.unwrap_or(DEFAULT_RUN_DIR));
        if path.is_absolute() { Ok(path) } else { Err(invalid("runDir", "is not an absolute path")) }
    }

    fn mtu(&self) -> Result<Option<u32>, Error> {
        let Some(value) = self.get("mtu") else { return Ok(None) };
        let mtu = value.as_u64().filter(|mtu| *mtu == 0 || MTU.contains(mtu));
        let mtu =
            mtu.ok_or_else(|| invalid("mtu", "is neither 0 (found out by the agent) nor from 68 to 65535"))?;
        Ok(u32::try_from(mtu).ok().filter(|mtu| *mtu != 0))
    }

    /// `runtimeConfig.ips` if the runtime gave any, else `args.cni.ips`.
    fn addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let runtime = match self.object("runtimeConfig", "runtimeConfig.")? {
            Some(runtime) => runtime.texts("ips")?,
            None => Vec::new(),
        };
        let asked = if !runtime.is_empty() {
            runtime
        } else {
            let args = self.object("args", "args.")?;
            let cni = args.map(|args| args.object("cni", "args.cni.")).transpose()?.flatten();
            cni.map(|cni| cni.texts("ips")).transpose()?.unwrap_or_default()
        };
        let parsed: Option<Vec<IpAddr>> = asked
            .into_iter()
            .map(|text| text.parse::<IpNetwork>().ok().map(|network| network.ip()))
            .collect();
        parsed.ok_or_else(|| invalid("ips", "has something that is not an address"))
    }

    fn mac(&self) -> Result<Option<Mac>, Error> {
        let Some(runtime) = self.object("runtimeConfig", "runtimeConfig.")? else { return Ok(None) };
        match runtime.text("mac")? {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| invalid("runtimeConfig.mac", "is not the hardware address of one interface")),
        }
    }

    /// GC without its list would remove every pod's link, so the list may be empty but not absent.
    fn valid_attachments(&self, verb: Verb) -> Result<Vec<Attachment>, Error> {
        if verb != Verb::Gc {
            return Ok(Vec::new());
        }
        let keys = ["cni.dev/valid-attachments", "cni.dev/attachments"];
        let key = keys.into_iter().find(|key| self.object.contains_key(*key));
        let key = key.ok_or_else(|| invalid(keys[0], "is missing: without it GC would remove every link"))?;
        let list = self.object.get(key).and_then(Value::as_array);
        let read = |item: &Value| {
            let text = |field: &str| item.get(field).and_then(Value::as_str).map(str::to_owned);
            Some(Attachment { container: text("containerID")?, ifname: text("ifname")? })
        };
        let valid: Option<Vec<Attachment>> = list.and_then(|list| list.iter().map(read).collect());
        valid.ok_or_else(|| self.mistyped(key, "a list of objects with containerID and ifname"))
    }
}

fn no_version() -> Error {
    Error::new(Code::INCOMPATIBLE_VERSION, "cniVersion is missing from the network configuration")
        .details(format!("supported are {}", Version::ALL.map(Version::as_str).join(", ")))
}

fn invalid(field: &str, rule: &str) -> Error {
    Error::new(Code::INVALID_CONFIG, format!("field \"{field}\" of the network configuration {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn conf(changes: Value) -> Value {
        let mut config = json!({ "cniVersion": "1.1.0", "name": "manx", "type": "manx-cni" });
        let (Some(config_fields), Value::Object(changes)) = (config.as_object_mut(), changes) else {
            panic!("objects")
        };
        config_fields.extend(changes);
        config
    }

    fn parse(verb: Verb, changes: Value) -> Result<NetConf, Error> {
        NetConf::parse(verb, conf(changes).to_string().as_bytes())
    }

    #[test]
    fn the_smallest_configuration_has_the_defaults() {
        let config = parse(Verb::Add, json!({})).unwrap();
        assert_eq!(config.run_dir, PathBuf::from("/run/manx"));
        assert_eq!((config.mtu, config.mac, config.previous), (None, None, None));
        assert!(config.addresses.is_empty() && config.dns.is_empty());
    }

    #[test]
    fn a_full_configuration_is_read_whole() {
        let config = parse(
            Verb::Add,
            json!({
                "runDir": "/run/other", "mtu": 1400, "capabilities": { "ips": true, "mac": true },
                "runtimeConfig": { "ips": ["10.1.2.3/24", "fd00::3"], "mac": "0a:58:0a:01:02:03",
                    "portMappings": [{ "hostPort": 80 }] },
                "args": { "cni": { "ips": ["10.9.9.9"] }, "labels": [1] },
                "dns": { "nameservers": ["10.96.0.10"] },
                "prevResult": { "cniVersion": "1.1.0", "interfaces": [{ "name": "x" }], "ips": [] },
            }),
        )
        .unwrap();
        assert_eq!(config.run_dir, PathBuf::from("/run/other"));
        assert_eq!(config.mtu, Some(1400));
        assert_eq!(config.addresses, ["10.1.2.3".parse::<IpAddr>().unwrap(), "fd00::3".parse().unwrap()]);
        assert_eq!(config.mac, "0a:58:0a:01:02:03".parse().ok());
        assert_eq!(config.dns.nameservers, ["10.96.0.10"]);
        assert_eq!(config.previous.unwrap().interfaces[0].name, "x");
    }

    #[test]
    fn addresses_may_be_asked_for_by_convention() {
        let config = parse(Verb::Add, json!({ "args": { "cni": { "ips": ["10.9.9.9"] } } })).unwrap();
        assert_eq!(config.addresses, ["10.9.9.9".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_is_wrong_is_named_with_the_code_of_the_specification() {
        let cases = [
            (json!({ "cniVersion": null }), 1, "cniVersion is missing"),
            (json!({ "cniVersion": "1.2.0" }), 1, "\"1.2.0\""),
            (json!({ "cniVersion": 1 }), 6, "\"cniVersion\""),
            (json!({ "name": null }), 7, "\"name\""),
            (json!({ "name": "" }), 7, "\"name\""),
            (json!({ "name": "../x" }), 7, "\"name\""),
            (json!({ "name": 5 }), 6, "\"name\""),
            (json!({ "type": null }), 7, "\"type\""),
            (json!({ "type": "../../bin/sh" }), 7, "\"type\""),
            (json!({ "ipam": { "type": "host-local" } }), 2, "host-local"),
            (json!({ "ipam": 5 }), 6, "\"ipam\""),
            (json!({ "runDir": "run" }), 7, "\"runDir\""),
            (json!({ "mtu": "1500" }), 7, "\"mtu\""),
            (json!({ "mtu": 67 }), 7, "\"mtu\""),
            (json!({ "mtu": 65536 }), 7, "\"mtu\""),
            (json!({ "mtu": -1 }), 7, "\"mtu\""),
            (json!({ "runtimeConfig": { "ips": ["10.1.2"] } }), 7, "\"ips\""),
            (json!({ "runtimeConfig": { "ips": "10.1.2.3" } }), 6, "\"runtimeConfig.ips\""),
            (json!({ "runtimeConfig": { "mac": "01:00:5e:00:00:01" } }), 7, "\"runtimeConfig.mac\""),
            (json!({ "args": { "cni": [] } }), 6, "\"args.cni\""),
            (json!({ "prevResult": { "ips": "none" } }), 6, "\"prevResult\""),
            (
                json!({ "prevResult": { "ips": [{ "address": "10.0.0.1/24", "interface": -1 }] } }),
                6,
                "\"prevResult\"",
            ),
            (
                json!({ "prevResult": { "ips": [{ "address": "10.0.0.1/24", "interface": 0 }] } }),
                7,
                "\"prevResult\"",
            ),
            (json!({ "dns": 5 }), 6, "\"dns\""),
        ];
        for (changes, code, text) in cases {
            let error = parse(Verb::Add, changes.clone()).expect_err(&changes.to_string());
            assert_eq!(error.code, Code(code), "{changes}: {error}");
            assert!(error.msg.contains(text), "{changes}: {error}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_by_its_place_and_not_by_its_content() {
        for stdin in ["", "{", "s3cret", "[]", "5", r#"{"password":s3cret}"#] {
            let error = NetConf::parse(Verb::Add, stdin.as_bytes()).unwrap_err();
            assert_eq!(error.code, Code::DECODE, "{stdin}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_wrong_value_is_never_repeated() {
        let secret = "hunter two";
        for changes in [
            json!({ "cniVersion": secret }),
            json!({ "name": secret }),
            json!({ "type": secret }),
            json!({ "ipam": { "type": secret } }),
            json!({ "mtu": secret }),
            json!({ "runDir": secret }),
            json!({ "dns": secret }),
            json!({ "prevResult": { "ips": [{ "address": secret }] } }),
            json!({ "runtimeConfig": { "ips": [secret] } }),
            json!({ "runtimeConfig": { "mac": secret } }),
        ] {
            let error = parse(Verb::Add, changes.clone()).expect_err(&changes.to_string());
            assert!(!error.to_string().contains("hunter"), "{error}");
        }
    }

    #[test]
    fn a_verb_is_refused_in_versions_that_do_not_have_it() {
        for (verb, version) in [(Verb::Check, "0.3.1"), (Verb::Status, "1.0.0"), (Verb::Gc, "0.4.0")] {
            let error = parse(verb, json!({ "cniVersion": version })).unwrap_err();
            assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
            assert!(error.msg.contains(verb.as_str()), "{error}");
        }
    }

    #[test]
    fn check_needs_the_result_of_add() {
        assert_eq!(parse(Verb::Check, json!({})).unwrap_err().code, Code::INVALID_CONFIG);
    }

    #[test]
    fn gc_takes_an_empty_list_but_not_a_missing_or_broken_one() {
        assert_eq!(parse(Verb::Gc, json!({})).unwrap_err().code, Code::INVALID_CONFIG);
        for broken in [json!(null), json!({}), json!(["c1"]), json!([{ "containerID": "c1" }])] {
            let error = parse(Verb::Gc, json!({ "cni.dev/valid-attachments": broken })).unwrap_err();
            assert_eq!(error.code, Code::DECODE);
        }
        assert_eq!(parse(Verb::Gc, json!({ "cni.dev/valid-attachments": [] })).unwrap().valid, []);
        let list = json!([{ "containerID": "c1", "ifname": "eth0" }]);
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let valid = parse(Verb::Gc, json!({ key: list })).unwrap().valid;
            assert_eq!(valid, [Attachment { container: "c1".into(), ifname: "eth0".into() }]);
        }
    }

    #[test]
    fn del_reads_what_it_can_out_of_anything() {
        let default = PathBuf::from(DEFAULT_RUN_DIR);
        for stdin in ["", "{", "[]", "5", r#"{"runDir":"relative"}"#, r#"{"cniVersion":"9.9.9","name":5}"#] {
            let config = NetConf::parse(Verb::Del, stdin.as_bytes()).expect(stdin);
            assert_eq!(config.run_dir, default, "{stdin}");
        }
        let config = NetConf::parse(Verb::Del, br#"{"cniVersion":"9","runDir":"/run/other"}"#).unwrap();
        assert_eq!(config.run_dir, PathBuf::from("/run/other"));
    }

    #[test]
    fn del_and_gc_do_not_fail_over_what_only_add_needs() {
        let wrong = json!({
            "ipam": { "type": "host-local" }, "mtu": "1500", "dns": 5, "prevResult": [], "args": 5,
            "runtimeConfig": { "mac": "none" }, "cni.dev/valid-attachments": [],
        });
        for verb in [Verb::Del, Verb::Gc] {
            assert!(parse(verb, wrong.clone()).is_ok());
        }
        assert!(parse(Verb::Status, wrong).is_err());
    }
}
