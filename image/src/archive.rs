//! One archive that is both an OCI image layout (`index.json` and blobs, OCI image specification 1.1) and what
//! `docker load` and `ctr images import` have taken for longer (`manifest.json`): what `docker save` writes today.

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::Builder;

use crate::tree::{Tree, append_file};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What runs in a container of the image, unless the pod says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments that a pod's `args` replace.
    pub command: Vec<String>,
    /// `UID:GID`; root when empty.
    pub user: String,
    /// `PATH`, folders separated by colons.
    pub path: String,
    /// Labels by name, such as `org.opencontainers.image.version`.
    pub labels: BTreeMap<String, String>,
}

/// An image of one platform.
#[derive(Clone, Debug)]
pub struct Image {
    /// The names under which it is loaded, whole: registry, repository and tag (`docker.io/library/manx:1.0.0`).
    pub names: Vec<String>,
    /// The processor as Go names it: `amd64`, `arm64`.
    pub arch: String,
    /// Seconds since 1970: the time of the image and of every file in it.
    pub time: u64,
    /// Whether layers are compressed with gzip.
    pub gzip: bool,
    /// Entry point, user, labels.
    pub defaults: Defaults,
    /// The files, lowest layer first.
    pub layers: Vec<Tree>,
}

/// A blob with its name: the digest of its content.
struct Blob {
    kind: String,
    digest: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(kind: &str, content: Vec<u8>) -> Self {
        Self { kind: kind.to_owned(), digest: digest(&content), content }
    }

    fn json(kind: &str, content: &Value) -> Self {
        Self::new(kind, content.to_string().into_bytes())
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.kind, "digest": self.digest, "size": self.content.len()})
    }
}

impl Image {
    /// The whole archive. The same image gives the same bytes.
    ///
    /// # Errors
    /// When a path of a layer cannot be written into a tar archive.
    pub fn to_archive(&self) -> io::Result<Vec<u8>> {
        let mut layers = Vec::new();
        let mut contents = Vec::new();
        for tree in &self.layers {
            let tar = tree.to_tar(self.time)?;
            contents.push(digest(&tar));
            layers.push(self.layer(tar)?);
        }
        let config = Blob::json(CONFIG, &self.config(&contents));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::json(MANIFEST, &manifest);
        let docker = json!([{
            "Config": config.path(),
            "RepoTags": self.names,
            "Layers": layers.iter().map(Blob::path).collect::<Vec<_>>(),
        }]);
        let mut files = BTreeMap::from([
            ("index.json".to_owned(), self.index(&manifest).to_string().into_bytes()),
            ("manifest.json".to_owned(), docker.to_string().into_bytes()),
            ("oci-layout".to_owned(), json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes()),
        ]);
        files.extend(layers.into_iter().chain([config, manifest]).map(|blob| (blob.path(), blob.content)));
        self.write(&files)
    }

    fn write(&self, files: &BTreeMap<String, Vec<u8>>) -> io::Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, content) in files {
            append_file(&mut tar, path, 0o644, content, self.time)?;
        }
        tar.into_inner()
    }

    fn layer(&self, tar: Vec<u8>) -> io::Result<Blob> {
        if !self.gzip {
            return Ok(Blob::new(LAYER, tar));
        }
        // Neither a name nor a time in its header, and always the same system.
        let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
        gzip.write_all(&tar)?;
        Ok(Blob::new(&format!("{LAYER}+gzip"), gzip.finish()?))
    }

    /// One entry per name, all of the same manifest: importers name an image by the annotations of its entry.
    fn index(&self, manifest: &Blob) -> Value {
        let entries = self.names.iter().map(|name| {
            let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
            let mut entry = manifest.descriptor();
            entry["platform"] = json!({"architecture": self.arch, "os": "linux"});
            entry["annotations"] = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": tag,
            });
            entry
        });
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries.collect::<Vec<_>>()})
    }

    fn config(&self, layers: &[String]) -> Value {
        let Defaults { entrypoint, command, user, path, labels } = &self.defaults;
        let mut config = json!({"Env": [format!("PATH={path}")], "WorkingDir": "/", "Labels": labels});
        for (name, words) in [("Entrypoint", entrypoint), ("Cmd", command)] {
            if !words.is_empty() {
                config[name] = json!(words);
            }
        }
        if !user.is_empty() {
            config["User"] = json!(user);
        }
        let created = timestamp(self.time);
        let history = layers.iter().map(|_| json!({"created": created, "created_by": "cargo xtask image"}));
        json!({
            "created": created,
            "architecture": self.arch,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": layers},
            "history": history.collect::<Vec<_>>(),
        })
    }
}

/// The name of a content: `sha256:` and its digest in hexadecimal.
pub(crate) fn digest(content: &[u8]) -> String {
    let octets = Sha256::digest(content);
    let hexadecimal: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("sha256:{hexadecimal}")
}

/// Seconds since 1970 as RFC 3339 writes them, in UTC.
#[must_use]
pub fn timestamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut day) = (1970, days);
    while day >= days_in_year(year) {
        day -= days_in_year(year);
        year += 1;
    }
    let february = days_in_year(year) - 337;
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{:02}Z", day + 1, second % 60)
}

fn days_in_year(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    365 + u64::from(leap)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn image(gzip: bool) -> Image {
        Image {
            names: vec!["docker.io/library/a:1".to_owned(), "docker.io/library/a:2".to_owned()],
            arch: "amd64".to_owned(),
            time: 1_700_000_000,
            gzip,
            defaults: Defaults {
                entrypoint: vec!["/usr/bin/a".to_owned()],
                command: vec!["-v".to_owned()],
                user: "65534:65534".to_owned(),
                path: "/usr/bin".to_owned(),
                labels: BTreeMap::from([("b".to_owned(), "c".to_owned())]),
            },
            layers: vec![Tree::new().file("usr/bin/a", 0o755, "A".repeat(5000))],
        }
    }

    fn read(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            files.insert(path, content);
        }
        files
    }

    fn parse(content: &[u8]) -> Value {
        serde_json::from_slice(content).expect("JSON")
    }

    /// The blob that a descriptor describes, after a look at digest and size.
    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest_of = descriptor["digest"].as_str().expect("a digest");
        let content = &files[&format!("blobs/{}", digest_of.replace(':', "/"))];
        assert_eq!(digest(content), digest_of);
        assert_eq!(descriptor["size"], content.len());
        content
    }

    #[test]
    fn two_writes_of_the_same_image_are_the_same_bytes() {
        for gzip in [false, true] {
            let (one, two) = (image(gzip).to_archive().expect("one"), image(gzip).to_archive().expect("two"));
            assert!(one == two, "gzip {gzip}");
        }
    }

    #[test]
    fn both_doors_of_the_archive_lead_to_the_same_config_and_layers() {
        for gzip in [false, true] {
            let files = read(&image(gzip).to_archive().expect("an archive"));
            let docker = parse(&files["manifest.json"]);
            assert_eq!(docker[0]["RepoTags"], json!(["docker.io/library/a:1", "docker.io/library/a:2"]));
            let index = parse(&files["index.json"]);
            assert_eq!(
                index["manifests"][1]["annotations"]["io.containerd.image.name"],
                "docker.io/library/a:2"
            );
            let manifest = parse(blob(&files, &index["manifests"][0]));
            let config = blob(&files, &manifest["config"]);
            assert_eq!(config, files[docker[0]["Config"].as_str().expect("a path")]);
            let layer = blob(&files, &manifest["layers"][0]);
            assert_eq!(layer, files[docker[0]["Layers"][0].as_str().expect("a path")]);
            let mut tar = Vec::new();
            if gzip {
                flate2::read::GzDecoder::new(layer).read_to_end(&mut tar).expect("gzip");
            } else {
                tar.extend_from_slice(layer);
            }
            assert_eq!(parse(config)["rootfs"]["diff_ids"], json!([digest(&tar)]));
            assert_eq!(read(&tar)["usr/bin/a"].len(), 5000);
        }
    }

    #[test]
    fn the_configuration_is_exactly_this() {
        let config = image(false).config(&["sha256:00".to_owned()]);
        let want = json!({
            "created": "2023-11-14T22:13:20Z",
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "User": "65534:65534",
                "Env": ["PATH=/usr/bin"],
                "Entrypoint": ["/usr/bin/a"],
                "Cmd": ["-v"],
                "WorkingDir": "/",
                "Labels": {"b": "c"},
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:00"]},
            "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "cargo xtask image"}],
        });
        assert_eq!(config, want);
    }

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), want);
        }
    }
}
