//! What the hub has of a model, and which of its files are fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lora::write_whole;
use serde_json::Value;
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;

use super::{Hub, REVISION, Repository, is_commit};
use crate::failure::{Failure, Outcome};
use crate::loading::COMPANIONS;
use crate::output::Output;

/// A server that is silent for so long is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The hub's lists of files stay far below.
const MAX_LISTING_BYTES: u64 = 32 << 20;

/// Kinds of weights in order of preference: a single file, and an index of shards with the extension of these.
const WEIGHTS: [(&str, &str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json", ".safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin"),
];

/// The files of one version of a model.
struct Listing {
    commit: String,
    /// Sizes in bytes, where the hub tells them, by name; only names without directories.
    files: BTreeMap<String, Option<u64>>,
}

/// Why the hub's list could not be had.
enum Unlisted {
    /// No server answered.
    Unreachable(String),
    /// It answered something else.
    Refused(Failure),
}

/// Where one version of a model comes from and goes to.
pub(super) struct Version<'a> {
    pub agent: &'a Agent,
    pub repository: &'a Repository,
    /// What a file's name is appended to.
    pub address: String,
    pub token: Option<&'a str>,
    pub directory: PathBuf,
}

impl Hub {
    /// Fetches what is missing of a model's newest version; gives its directory. The cache then refers to that version, so
    /// that it does only once the version is whole.
    pub(super) fn fetch(&self, repository: &Repository, output: &Output) -> Outcome<PathBuf> {
        let agent = self.agent();
        let listing = match self.listing(&agent, repository) {
            Ok(listing) => listing,
            Err(Unlisted::Refused(failure)) => return Err(failure),
            Err(Unlisted::Unreachable(reason)) => {
                let way_out = format!("and {} cannot be reached ({reason})", self.endpoint);
                let cached = self.offline_directory(repository, &way_out)?;
                output.say(format!("warning: {} cannot be reached; using the cached {repository}", self.endpoint));
                return Ok(cached);
            }
        };
        let folder = self.folder(repository);
        let directory = folder.join("snapshots").join(&listing.commit);
        let made = std::fs::create_dir_all(&directory);
        made.map_err(|error| Failure::input(format!("the cache {}: {error}", directory.display())))?;
        let version = Version {
            agent: &agent,
            repository,
            address: format!("{}/{repository}/resolve/{}", self.endpoint, listing.commit),
            token: self.token.as_deref(),
            directory,
        };
        listing.fetch(&version, output)?;
        write_whole(&folder.join("refs").join(REVISION), listing.commit.as_bytes())?;
        Ok(version.directory)
    }

    fn agent(&self) -> Agent {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(self.endpoint.starts_with("https:"))
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("xtask/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE));
        config.build().into()
    }

    fn listing(&self, agent: &Agent, repository: &Repository) -> Result<Listing, Unlisted> {
        let address = format!("{}/api/models/{repository}/revision/{REVISION}?blobs=true", self.endpoint);
        let mut request = agent.get(&address);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut response = request.call().map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::RequireHttpsOnly(_) => {
                Unlisted::Refused(Failure::input(format!("HF_ENDPOINT {}: {error}", self.endpoint)))
            }
            error => Unlisted::Unreachable(error.to_string()),
        })?;
        let refused = |message: String| Unlisted::Refused(Failure::input(format!("{repository}: {message}")));
        match response.status().as_u16() {
            200 => {}
            status @ (401 | 403 | 404) => {
                return Err(refused(format!(
                    "there is no such directory, and {} answers {status}: there is no such model, or it is not open to \
                     everyone; then accept its terms at {0}/{repository} and set HF_TOKEN",
                    self.endpoint
                )));
            }
            status => return Err(refused(format!("{} answers {status}; try again later", self.endpoint))),
        }
        let text = response.body_mut().with_config().limit(MAX_LISTING_BYTES).read_to_vec();
        let text = text.map_err(|error| Unlisted::Unreachable(error.to_string()))?;
        Listing::parse(&text).ok_or_else(|| {
            refused(format!("{} does not answer as the Hugging Face hub does; see HF_ENDPOINT", self.endpoint))
        })
    }
}

impl Listing {
    /// Reads the hub's answer. Files in directories are left out: no checkpoint needs them.
    fn parse(text: &[u8]) -> Option<Self> {
        let answer: Value = serde_json::from_slice(text).ok()?;
        let commit = answer.get("sha")?.as_str().filter(|commit| is_commit(commit))?.to_string();
        let file = |entry: &Value| {
            let name = entry.get("rfilename").and_then(Value::as_str).filter(|name| is_plain(name))?;
            Some((name.to_string(), entry.get("size").and_then(Value::as_u64)))
        };
        let files = answer.get("siblings")?.as_array()?.iter().filter_map(file).collect();
        Some(Listing { commit, files })
    }

    /// Fetches the files of a checkpoint: everything small first.
    fn fetch(&self, version: &Version<'_>, output: &Output) -> Outcome<()> {
        let get = |name: &str| match self.files.get(name) {
            Some(size) => version.get(name, *size, output),
            None => Err(Failure::input(format!("{}: there is no file {name}", version.repository))),
        };
        get("config.json")?;
        for name in COMPANIONS.iter().filter(|name| self.files.contains_key(**name)) {
            get(name)?;
        }
        for (single, index, extension) in WEIGHTS {
            if self.files.contains_key(single) {
                return get(single);
            }
            if self.files.contains_key(index) {
                get(index)?;
                let shards = shards(&version.directory.join(index), extension)?;
                return shards.iter().try_for_each(|shard| get(shard));
            }
        }
        Err(Failure::input(format!(
            "{}: there are no weights; known are {}, and shards of these with their index",
            version.repository,
            WEIGHTS.map(|(single, ..)| single).join(" and ")
        )))
    }
}

/// The files that an index names; only plain names with the right ending become paths.
fn shards(index: &Path, extension: &str) -> Outcome<BTreeSet<String>> {
    let wrong = |message: &str| Failure::input(format!("{}: {message}", index.display()));
    let text = std::fs::read(index).map_err(|error| wrong(&error.to_string()))?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| wrong(&error.to_string()))?;
    let map = value.get("weight_map").and_then(Value::as_object).ok_or_else(|| wrong("`weight_map` is missing"))?;
    let sound = |shard: &Value| {
        let shard = shard.as_str().filter(|shard| is_plain(shard) && shard.ends_with(extension));
        shard.map(str::to_string).ok_or_else(|| wrong("a shard is not a plain file name; refusing"))
    };
    map.values().map(sound).collect()
}

/// A name without directories or anything that a file system could read otherwise.
fn is_plain(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=200).contains(&name.len()) && !name.starts_with('.') && name.chars().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_become_files() {
        for name in ["model.safetensors", "model-00001-of-00002.safetensors", "a_b"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", ".", "..", ".hidden", "a/b", "a\\b", "C:x", "a b", "a\0b", "é"] {
            assert!(!is_plain(name), "{name}");
        }
    }

    #[test]
    fn answers_of_other_servers_are_no_listings() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        let listing = format!(
            r#"{{"sha": "{sha}", "siblings": [{{"rfilename": "config.json", "size": 3}}, {{"rfilename": "onnx/m.bin"}}]}}"#
        );
        let read = Listing::parse(listing.as_bytes()).unwrap();
        assert_eq!((read.commit.as_str(), read.files.len(), read.files["config.json"]), (sha, 1, Some(3)));
        for wrong in ["", "<html>", "[]", "{}", r#"{"sha": "../x", "siblings": []}"#, r#"{"sha": 1, "siblings": []}"#] {
            assert!(Listing::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn an_index_names_shards_in_its_own_directory() {
        let directory = tempfile::tempdir().unwrap();
        let index = directory.path().join("index.json");
        let read = |text: &str| {
            std::fs::write(&index, text).unwrap();
            shards(&index, ".safetensors").map_err(|failure| failure.to_string())
        };
        let two = read(r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}"#);
        assert_eq!(two.unwrap().len(), 2);
        for evil in ["../m.safetensors", "/etc/m.safetensors", "config.json", "tokenizer_config.json", "m.bin"] {
            let refused = read(&format!(r#"{{"weight_map": {{"a": "{evil}"}}}}"#)).unwrap_err();
            assert!(refused.contains("not a plain file name"), "{evil}: {refused}");
        }
        assert!(read("{}").unwrap_err().contains("`weight_map`"));
        assert!(read("{").is_err());
    }
}
