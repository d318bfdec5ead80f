//! What the programs of an image are made of, as an SPDX 2.3 document: every crate that is linked, and none that is only
//! used to build or to test.
//!
//! Cargo says what is linked ([`linked`] reads `cargo tree`), `Cargo.lock` knows the checksums. Licence texts are absent:
//! only their SPDX expressions are given.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::archive::{digest, timestamp};

/// How `cargo tree` has to print for [`linked`], after the packages and the target.
pub const TREE: [&str; 6] =
    ["--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", "{p}\t{l}\t{r}"];

/// A crate in one version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// The crates that are linked into programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Linked {
    /// The crates that the programs belong to.
    pub programs: BTreeSet<Crate>,
    /// Licence (an SPDX expression, or nothing) and repository of each crate, programs included.
    pub crates: BTreeMap<Crate, (String, String)>,
    /// Who needs whom.
    pub needs: BTreeSet<(Crate, Crate)>,
}

/// An image, for the head of the document.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The image's version.
    pub version: &'a str,
    /// The processor as Go names it.
    pub arch: &'a str,
    /// Seconds since 1970.
    pub time: u64,
    /// The version of the compiler, whose standard library is in each program (`rustc 1.95.0 (…)`).
    pub rust: &'a str,
}

impl Linked {
    /// Adds what another call of cargo links.
    pub fn extend(&mut self, other: Self) {
        self.programs.extend(other.programs);
        self.crates.extend(other.crates);
        self.needs.extend(other.needs);
    }
}

/// Reads what `cargo tree` with the options [`TREE`] prints.
#[must_use]
pub fn linked(tree: &str) -> Linked {
    let mut linked = Linked::default();
    let mut above: Vec<Crate> = Vec::new();
    for line in tree.lines() {
        let mut columns = line.trim_end_matches(" (*)").split('\t');
        let first = columns.next().unwrap_or_default();
        let name_at = first.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(first.len());
        let (Ok(depth), Some((name, rest))) = (first[..name_at].parse(), first[name_at..].split_once(" v"))
        else {
            continue;
        };
        let version = rest.split(' ').next().unwrap_or_default();
        let this = Crate { name: name.to_owned(), version: version.to_owned() };
        // Old manifests separate alternatives with a slash.
        let licence = columns.next().unwrap_or_default().replace('/', " OR ");
        let repository = columns.next().unwrap_or_default().to_owned();
        above.truncate(depth);
        match above.last() {
            Some(parent) => drop(linked.needs.insert((parent.clone(), this.clone()))),
            None => drop(linked.programs.insert(this.clone())),
        }
        linked.crates.insert(this.clone(), (licence, repository));
        above.push(this);
    }
    linked
}

/// The document, with its members in a fixed order. `lock` is the text of `Cargo.lock`.
#[must_use]
pub fn document(about: &About<'_>, linked: &Linked, lock: &str) -> String {
    let checksums = checksums(lock);
    let mut packages = vec![image_package(about), rust_package(about)];
    for (this, (licence, repository)) in &linked.crates {
        packages.push(crate_package(this, licence, repository, checksums.get(this).map(String::as_str)));
    }
    let mut relationships = vec![
        relationship("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"),
        relationship("SPDXRef-image", "CONTAINS", "SPDXRef-rust-std"),
    ];
    let programs = linked.programs.iter();
    relationships.extend(programs.map(|this| relationship("SPDXRef-image", "CONTAINS", &id(this))));
    let needs = linked.needs.iter();
    relationships.extend(needs.map(|(this, needed)| relationship(&id(this), "DEPENDS_ON", &id(needed))));
    let name = format!("manx-{}-{}", about.version, about.arch);
    let content = digest(json!([packages, relationships]).to_string().as_bytes());
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("https://manx.dev/spdx/{name}/{}", content.trim_start_matches("sha256:")),
        "creationInfo": {
            "created": timestamp(about.time),
            "creators": [format!("Tool: manx-image-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    });
    format!("{document:#}\n")
}

/// The checksum of every crate in a `Cargo.lock` that has one.
fn checksums(lock: &str) -> BTreeMap<Crate, String> {
    let packages = lock.split("[[package]]").skip(1);
    let checksum = |package: &str| {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
            line.map(|value| value.trim_end_matches('"').to_owned())
        };
        Some((Crate { name: value("name")?, version: value("version")? }, value("checksum")?))
    };
    packages.filter_map(checksum).collect()
}

fn image_package(about: &About<'_>) -> Value {
    json!({
        "SPDXID": "SPDXRef-image",
        "name": "manx",
        "versionInfo": about.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": env!("CARGO_PKG_LICENSE"),
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "CONTAINER",
    })
}

/// The standard library, and musl with it: the Rust target brings both.
fn rust_package(about: &About<'_>) -> Value {
    let version = about.rust.split(' ').nth(1).unwrap_or(about.rust);
    json!({
        "SPDXID": "SPDXRef-rust-std",
        "name": "rust-std",
        "versionInfo": version,
        "downloadLocation": "https://static.rust-lang.org/dist",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "(MIT OR Apache-2.0) AND MIT",
        "copyrightText": "NOASSERTION",
        "comment": "the standard library of Rust and, within it, musl",
    })
}

fn crate_package(this: &Crate, licence: &str, repository: &str, checksum: Option<&str>) -> Value {
    let Crate { name, version } = this;
    let mut package = json!({
        "SPDXID": id(this),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": if licence.is_empty() { "NOASSERTION" } else { licence },
        "copyrightText": "NOASSERTION",
    });
    if repository.starts_with("http") {
        package["homepage"] = json!(repository);
    }
    // What has a checksum comes from the registry; the rest is ours.
    if let Some(checksum) = checksum {
        package["downloadLocation"] =
            json!(format!("https://crates.io/api/v1/crates/{name}/{version}/download"));
        package["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": checksum}]);
        package["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!("pkg:cargo/{name}@{version}"),
        }]);
    }
    package
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

fn id(this: &Crate) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' };
    format!("SPDXRef-crate-{}-{}", this.name, this.version).chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"b_c\"\nversion = \"2.0.0+x\"\nsource = \"registry\"\n\
        checksum = \"00ff\"\ndependencies = [\n \"d\",\n]\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n";
    const PRINTED: &str = "0a v1.0.0 (/x/a)\tApache-2.0\thttps://a.example\n1b_c v2.0.0+x\tMIT/Apache-2.0\t\n\
        2d v3.0.0\tMIT\thttps://d.example\n1d v3.0.0\tMIT\thttps://d.example (*)\n\n0e v1.0.0 (/x/e)\t\t\n";

    fn it(name: &str, version: &str) -> Crate {
        Crate { name: name.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn the_tree_that_cargo_prints_is_understood() {
        let linked = linked(PRINTED);
        let (a, b, d, e) = (it("a", "1.0.0"), it("b_c", "2.0.0+x"), it("d", "3.0.0"), it("e", "1.0.0"));
        assert_eq!(linked.programs, BTreeSet::from([a.clone(), e]));
        assert_eq!(
            linked.needs,
            BTreeSet::from([(a.clone(), b.clone()), (b.clone(), d.clone()), (a, d.clone())])
        );
        assert_eq!(linked.crates[&b], ("MIT OR Apache-2.0".to_owned(), String::new()));
        assert_eq!(linked.crates[&d].1, "https://d.example");
    }

    #[test]
    fn every_crate_is_in_the_document_with_its_licence_and_its_checksum() {
        let about = About { version: "0.1.0", arch: "amd64", time: 0, rust: "rustc 1.95.0 (abc 2026)" };
        let text = document(&about, &linked(PRINTED), LOCK);
        assert_eq!(text, document(&about, &linked(PRINTED), LOCK), "the same input gives the same document");
        let document: Value = serde_json::from_str(&text).expect("JSON");
        let packages = document["packages"].as_array().expect("packages");
        assert_eq!(packages.len(), 2 + 4);
        let b = packages.iter().find(|package| package["name"] == "b_c").expect("it is there");
        assert_eq!(b["SPDXID"], "SPDXRef-crate-b-c-2.0.0-x");
        assert_eq!(b["licenseDeclared"], "MIT OR Apache-2.0");
        assert_eq!(b["checksums"][0]["checksumValue"], "00ff");
        let std = packages.iter().find(|package| package["name"] == "rust-std").expect("it is there");
        assert_eq!(std["versionInfo"], "1.95.0");
        let a = packages.iter().find(|package| package["name"] == "a").expect("it is there");
        assert!(a.get("checksums").is_none());
    }

    #[test]
    fn every_relationship_is_between_elements_that_are_there() {
        let about = About { version: "0.1.0", arch: "amd64", time: 0, rust: "rustc 1.95.0" };
        let document: Value = serde_json::from_str(&document(&about, &linked(PRINTED), LOCK)).expect("JSON");
        let ids: BTreeSet<&str> = document["packages"]
            .as_array()
            .expect("packages")
            .iter()
            .chain([&document])
            .map(|element| element["SPDXID"].as_str().expect("an id"))
            .collect();
        assert_eq!(ids.len(), 2 + 4 + 1, "ids are unique");
        for relationship in document["relationships"].as_array().expect("relationships") {
            for end in ["spdxElementId", "relatedSpdxElement"] {
                assert!(ids.contains(relationship[end].as_str().expect("an id")), "{relationship}");
            }
        }
    }
}
