//! Models by their names on the Hugging Face hub. `owner/name` is looked for in the cache that Hugging Face's own tools
//! keep; what is not there is fetched into it where the program was built with the cargo feature `hub`. Nothing else in
//! this program uses the network.

#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod transfer;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// The version of a model that is taken.
const REVISION: &str = "main";

/// The directory that a model argument means: itself where there is such a path, or where it is no name of the hub's; else
/// the cached, perhaps just fetched, files of `owner/name`.
pub fn directory(model: &Path, output: &Output) -> Outcome<PathBuf> {
    if model.exists() {
        return Ok(model.to_path_buf());
    }
    let Some(repository) = model.to_str().and_then(Repository::parse) else { return Ok(model.to_path_buf()) };
    Hub::from_environment(|name| std::env::var_os(name))?.directory(&repository, output)
}

/// What a model directory is called in files that name their base: `owner/name` for one of the hub's cache, else its path.
pub fn base_name(directory: &Path) -> String {
    let mut above = directory.components().rev().map(|part| part.as_os_str().to_string_lossy());
    let name = match (above.next(), above.next().as_deref(), above.next()) {
        (Some(_), Some("snapshots"), Some(folder)) => {
            folder.strip_prefix("models--").and_then(|name| name.split_once("--")).map(|(a, b)| format!("{a}/{b}"))
        }
        _ => None,
    };
    name.unwrap_or_else(|| directory.to_string_lossy().into_owned())
}

/// `owner/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Repository {
    owner: String,
    name: String,
}

impl Repository {
    /// The hub's rule for names: letters, digits, `-`, `_` and `.`, neither `--` nor `..`, and no `-` or `.` at the ends.
    fn parse(text: &str) -> Option<Self> {
        let (owner, name) = text.split_once('/')?;
        let sound = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            (1..=96).contains(&part.len())
                && part.chars().all(known)
                && !part.contains("--")
                && !part.contains("..")
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
        };
        (sound(owner) && sound(name)).then(|| Repository { owner: owner.into(), name: name.into() })
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// Where models come from, as Hugging Face's environment variables say.
struct Hub {
    /// HF_HUB_CACHE, else `hub` in HF_HOME, else `huggingface/hub` in XDG_CACHE_HOME or `.cache` at home.
    cache: PathBuf,
    /// HF_HUB_OFFLINE.
    offline: bool,
    /// HF_ENDPOINT.
    #[cfg(feature = "hub")]
    endpoint: String,
    /// HF_TOKEN.
    #[cfg(feature = "hub")]
    token: Option<String>,
}

impl Hub {
    fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Outcome<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(PathBuf::from);
        let home = || path("HOME").or_else(|| path("USERPROFILE")).map(|home| home.join(".cache"));
        let user = || path("XDG_CACHE_HOME").or_else(home).map(|cache| cache.join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HF_HOME").or_else(user).map(|home| home.join("hub")));
        let cache = cache.ok_or_else(|| Failure::input("there is no home directory for the cache; set HF_HOME"))?;
        let text = |name: &str| set(name).map(|value| value.to_string_lossy().trim().to_string());
        let offline = text("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()));
        Ok(Hub {
            cache,
            offline,
            #[cfg(feature = "hub")]
            endpoint: text("HF_ENDPOINT")
                .map_or_else(|| "https://huggingface.co".into(), |endpoint| endpoint.trim_end_matches('/').into()),
            #[cfg(feature = "hub")]
            token: text("HF_TOKEN"),
        })
    }

    /// Where the cache keeps a model.
    fn folder(&self, repository: &Repository) -> PathBuf {
        self.cache.join(format!("models--{}--{}", repository.owner, repository.name))
    }

    /// The cached files of the version that was fetched last.
    fn cached(&self, repository: &Repository) -> Option<PathBuf> {
        let folder = self.folder(repository);
        let commit = std::fs::read_to_string(folder.join("refs").join(REVISION)).ok()?;
        let commit = commit.trim();
        let snapshot = folder.join("snapshots").join(is_commit(commit).then_some(commit)?);
        snapshot.is_dir().then_some(snapshot)
    }

    #[cfg(feature = "hub")]
    fn directory(&self, repository: &Repository, output: &Output) -> Outcome<PathBuf> {
        match self.offline {
            true => self.offline_directory(repository, "HF_HUB_OFFLINE is set; unset it to fetch the model"),
            false => self.fetch(repository, output),
        }
    }

    #[cfg(not(feature = "hub"))]
    fn directory(&self, repository: &Repository, _: &Output) -> Outcome<PathBuf> {
        let way_out = match self.offline {
            true => "HF_HUB_OFFLINE is set",
            false => {
                "this program was built without the feature that fetches models: use `cargo xtask-hub` in place of \
                 `cargo xtask`"
            }
        };
        self.offline_directory(repository, way_out)
    }

    fn offline_directory(&self, repository: &Repository, way_out: &str) -> Outcome<PathBuf> {
        self.cached(repository).ok_or_else(|| {
            let cache = self.cache.display();
            Failure::input(format!(
                "{repository}: there is no such directory, and no such model in the cache {cache}; {way_out}"
            ))
        })
    }
}

/// The hash of a commit, which names a directory.
fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(variables: &[(&str, &str)]) -> Hub {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        Hub::from_environment(find).unwrap()
    }

    #[test]
    fn names_are_those_the_hub_allows() {
        let repository = Repository::parse("microsoft/deberta-v3-base").unwrap();
        assert_eq!((repository.owner.as_str(), repository.name.as_str()), ("microsoft", "deberta-v3-base"));
        assert!(Repository::parse("a/b_c.D-1").is_some());
        for wrong in
            ["", "a", "/a", "a/", "a/b/c", "../a", "a/..", "a/b..c", "a--b/c", "a/-b", "a/b.", "a/b c", "a/b\\c"]
        {
            assert_eq!(Repository::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_environment_says_where_the_cache_is() {
        let cache = |variables| hub(variables).cache;
        let all = [("HF_HUB_CACHE", "c"), ("HF_HOME", "h"), ("XDG_CACHE_HOME", "x"), ("HOME", "u")];
        assert_eq!(cache(&all), Path::new("c"));
        assert_eq!(cache(&all[1..]), Path::new("h/hub"));
        assert_eq!(cache(&all[2..]), Path::new("x/huggingface/hub"));
        assert_eq!(cache(&all[3..]), Path::new("u/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", ""), ("HOME", "u")]), Path::new("u/.cache/huggingface/hub"), "empty is unset");
        let nowhere = Hub::from_environment(|_| None).err().unwrap().to_string();
        assert!(nowhere.contains("HF_HOME"), "{nowhere}");
        assert!(hub(&[("HOME", "u"), ("HF_HUB_OFFLINE", "TRUE")]).offline);
        assert!(!hub(&[("HOME", "u"), ("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn paths_are_left_alone() {
        let output = Output::new(false);
        let here = tempfile::tempdir().unwrap();
        for path in [here.path(), Path::new("nowhere"), Path::new("./no/where"), Path::new("a/b/c")] {
            assert_eq!(directory(path, &output).unwrap(), path);
        }
    }

    #[test]
    fn cached_models_need_no_network() {
        let root = tempfile::tempdir().unwrap();
        let hub = hub(&[("HF_HUB_CACHE", root.path().to_str().unwrap()), ("HF_HUB_OFFLINE", "1")]);
        let repository = Repository::parse("some-owner/some.model").unwrap();
        let refused = hub.directory(&repository, &Output::new(false)).unwrap_err().to_string();
        assert!(refused.starts_with("some-owner/some.model: there is no such directory"), "{refused}");
        assert!(refused.contains("HF_HUB_OFFLINE"), "{refused}");

        let commit = "0123456789abcdef0123456789abcdef01234567";
        let folder = root.path().join("models--some-owner--some.model");
        let snapshot = folder.join("snapshots").join(commit);
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::write(folder.join("refs/main"), commit).unwrap();
        assert_eq!(hub.directory(&repository, &Output::new(false)).unwrap(), snapshot);
        assert_eq!(base_name(&snapshot), "some-owner/some.model");
        std::fs::write(folder.join("refs/main"), "../../elsewhere").unwrap();
        assert_eq!(hub.cached(&repository), None);
    }

    #[test]
    fn other_directories_are_called_by_their_path() {
        for path in ["checkpoints/llama", "snapshots/x", "models--a/snapshots/x"] {
            assert_eq!(base_name(Path::new(path)), path);
        }
    }
}
