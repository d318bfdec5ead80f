//! The result of ADD, in the shape of each version, and the result of the plugins before us.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Version;

/// What ADD made, together with what the plugins before it made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Success {
    /// Links, on the host (without a sandbox) and in the pod.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Addresses of the pod's links.
    #[serde(default)]
    pub ips: Vec<Ip>,
    /// Routes inside the pod.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Name service, passed through.
    #[serde(default)]
    pub dns: Dns,
}

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its name where it lives.
    pub name: String,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its MTU in bytes (from 1.1.0 on).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace path it lives in; none or empty for the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// Set by plugins for user-space interfaces (from 1.1.0 on).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// Set by plugins for devices (from 1.1.0 on).
    #[serde(default, rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// An address of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// Index of its link in [`Success::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// The address with its prefix length.
    pub address: IpNetwork,
    /// The gateway of its family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route inside the pod. All but the first two exist from 1.1.0 on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the kernel's own terms")]
pub struct Route {
    pub dst: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

impl Route {
    /// A route with a gateway and nothing else.
    pub fn via(dst: IpNetwork, gateway: IpAddr) -> Self {
        Self { dst, gw: Some(gateway), mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Name service for the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Success {
    /// Whether every address that names an interface names one that is there.
    pub fn is_consistent(&self) -> bool {
        self.ips.iter().filter_map(|ip| ip.interface).all(|index| index < self.interfaces.len())
    }

    /// The JSON that a runtime of this version expects.
    pub fn to_json(&self, version: Version) -> Value {
        if version < Version::V0_3_0 {
            return self.to_oldest_json(version);
        }
        json!({
            "cniVersion": version.as_str(),
            "interfaces": self.interfaces.iter().map(|link| link.to_json(version)).collect::<Vec<_>>(),
            "ips": self.ips.iter().map(|ip| ip.to_json(version)).collect::<Vec<_>>(),
            "routes": self.routes.iter().map(|route| route.to_json(version)).collect::<Vec<_>>(),
            "dns": &self.dns,
        })
    }
}

impl Success {
    /// Before 0.3.0 a result has one address of each family, each with its own routes, and no interfaces.
    fn to_oldest_json(&self, version: Version) -> Value {
        let mut object = json!({ "cniVersion": version.as_str(), "dns": &self.dns });
        for (key, is_v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().rev().find(|ip| ip.address.is_ipv4() == is_v4) else { continue };
            let routes = self.routes.iter().filter(|route| route.dst.is_ipv4() == is_v4);
            let routes: Vec<Value> = routes.map(|route| route.to_json(version)).collect();
            object[key] = json!({ "ip": ip.address, "routes": routes });
            if let Some(gateway) = ip.gateway {
                object[key]["gateway"] = json!(gateway);
            }
        }
        object
    }
}

impl Interface {
    /// Whether it is in a namespace rather than on the host.
    pub fn is_inside(&self) -> bool {
        self.sandbox.as_deref().is_some_and(|path| !path.is_empty())
    }

    fn to_json(&self, version: Version) -> Value {
        without(json!(self), &["mtu", "socketPath", "pciID"], version < Version::V1_1_0)
    }
}

impl Ip {
    fn to_json(&self, version: Version) -> Value {
        let mut object = json!(self);
        if version < Version::V1_0_0 {
            object["version"] = json!(if self.address.is_ipv4() { "4" } else { "6" });
        }
        object
    }
}

impl Route {
    fn to_json(&self, version: Version) -> Value {
        let newer = ["mtu", "advmss", "priority", "table", "scope"];
        without(json!(self), &newer, version < Version::V1_1_0)
    }
}

/// The object without these fields, if `older`.
fn without(object: Value, fields: &[&str], older: bool) -> Value {
    let Value::Object(all) = object else { return object };
    let kept: Map<_, _> = all.into_iter().filter(|(key, _)| !older || !fields.contains(&&**key)).collect();
    Value::Object(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dual_stack() -> Success {
        let host = Interface { name: "cali0".into(), mtu: Some(1500), ..Interface::default() };
        let pod = Interface { name: "eth0".into(), sandbox: Some("/run/netns/a".into()), ..host.clone() };
        let v4 = Ip {
            interface: Some(1),
            address: "10.244.0.7/32".parse().unwrap(),
            gateway: "169.254.1.1".parse().ok(),
        };
        let v6 = Ip { interface: Some(1), address: "fd00::7/128".parse().unwrap(), gateway: None };
        let mut default = Route::via("0.0.0.0/0".parse().unwrap(), "169.254.1.1".parse().unwrap());
        default.mtu = Some(1400);
        Success { interfaces: vec![host, pod], ips: vec![v4, v6], routes: vec![default], dns: Dns::default() }
    }

    #[test]
    fn before_0_3_a_result_has_one_address_of_each_family() {
        for version in [Version::V0_1_0, Version::V0_2_0] {
            let expected = json!({
                "cniVersion": version.as_str(),
                "ip4": {
                    "ip": "10.244.0.7/32", "gateway": "169.254.1.1",
                    "routes": [{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }],
                },
                "ip6": { "ip": "fd00::7/128", "routes": [] },
                "dns": {},
            });
            assert_eq!(dual_stack().to_json(version), expected);
        }
    }

    #[test]
    fn an_address_of_an_interface_that_is_not_there_is_noticed() {
        let mut result = dual_stack();
        assert!(result.is_consistent());
        result.ips[0].interface = Some(2);
        assert!(!result.is_consistent());
        result.ips[0].interface = None;
        assert!(result.is_consistent());
    }

    #[test]
    fn before_1_0_each_address_says_its_family() {
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            let ips = &dual_stack().to_json(version)["ips"];
            assert_eq!(
                *ips,
                json!([
                    { "version": "4", "interface": 1, "address": "10.244.0.7/32", "gateway": "169.254.1.1" },
                    { "version": "6", "interface": 1, "address": "fd00::7/128" },
                ])
            );
        }
    }

    #[test]
    fn from_1_0_on_no_address_says_its_family() {
        for version in [Version::V1_0_0, Version::V1_1_0] {
            assert_eq!(dual_stack().to_json(version)["ips"][0].get("version"), None);
        }
    }

    #[test]
    fn fields_of_1_1_are_kept_from_older_runtimes() {
        let old = dual_stack().to_json(Version::V1_0_0);
        assert_eq!(old["interfaces"][0], json!({ "name": "cali0" }));
        assert_eq!(old["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }]));
        let new = dual_stack().to_json(Version::V1_1_0);
        assert_eq!(new["interfaces"][0], json!({ "name": "cali0", "mtu": 1500 }));
        assert_eq!(new["routes"][0]["mtu"], 1400);
    }

    #[test]
    fn a_result_of_any_version_is_read_back() {
        for version in Version::ALL.into_iter().filter(|version| *version >= Version::V0_3_0) {
            let result = dual_stack();
            let read: Success = serde_json::from_value(result.to_json(version)).unwrap();
            assert_eq!(read.ips, result.ips, "{version}");
            assert_eq!(read.interfaces.len(), 2, "{version}");
        }
    }
}
