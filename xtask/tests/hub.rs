//! Models by name, from a hub on the loopback interface.
#![cfg(feature = "hub")]

mod common;
#[path = "common/hub_server.rs"]
mod hub_server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{assert_refused, result, text};
use hub_server::{Answer, COMMIT, Request, Server, listing};
use tempfile::TempDir;

const LIST: &str = "/api/models/tiny/llama/revision/main?blobs=true";

/// A user with a cache of their own.
struct User(TempDir);

impl User {
    fn new() -> Self {
        User(tempfile::tempdir().unwrap())
    }

    fn snapshot(&self) -> PathBuf {
        self.0.path().join("hub/models--tiny--llama/snapshots").join(COMMIT)
    }

    fn inspect(&self, endpoint: &str, variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["inspect", "tiny/llama", "--json"]).current_dir(self.0.path());
        for proxy in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.0.path()).env("HF_ENDPOINT", endpoint).envs(variables.iter().copied());
        command.output().unwrap()
    }
}

fn fixture(model: &str, name: &str) -> Vec<u8> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
    fs::read(fixtures.join(model).join("model").join(name)).unwrap()
}

fn resolve(name: &str) -> String {
    format!("/tiny/llama/resolve/{COMMIT}/{name}")
}

/// A server with the files of a fixture, the last of which is answered as `change` says.
fn serve(model: &str, names: &[&str], change: impl Fn(Vec<u8>) -> Answer) -> Server {
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (*name, fixture(model, name))).collect();
    let sizes: Vec<(&str, usize)> = files.iter().map(|(name, file)| (*name, file.len())).collect();
    let last = names.last().copied();
    let mut answers = vec![(LIST.to_string(), listing(&sizes))];
    answers.extend(
        files
            .into_iter()
            .map(|(name, file)| (resolve(name), if Some(name) == last { change(file) } else { Answer::File(file) })),
    );
    Server::start(answers)
}

fn endpoint(server: &Server) -> String {
    format!("http://127.0.0.1:{}", server.port)
}

const SINGLE: [&str; 2] = ["config.json", "model.safetensors"];

#[test]
fn a_model_is_fetched_once_into_the_cache_that_other_tools_share() {
    let (user, server) = (User::new(), serve("llama_tiny", &SINGLE, Answer::File));
    let first = user.inspect(&endpoint(&server), &[("HF_TOKEN", "secret")]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert_eq!(result(&first)["kind"], "checkpoint");
    let requests = server.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests.iter().all(|request| request.token.as_deref() == Some("Bearer secret")), "{requests:?}");
    for name in SINGLE {
        assert_eq!(fs::read(user.snapshot().join(name)).unwrap(), fixture("llama_tiny", name));
    }
    assert_eq!(fs::read_dir(user.snapshot()).unwrap().count(), 2, "nothing but the files");
    let main = user.0.path().join("hub/models--tiny--llama/refs/main");
    assert_eq!(fs::read_to_string(main).unwrap(), COMMIT);

    let second = user.inspect(&endpoint(&server), &[]);
    assert!(second.status.success(), "{}", text(&second.stderr));
    assert_eq!(server.requests(), [Request { path: LIST.into(), range: None, token: None }], "only the list again");
    let offline = user.inspect("http://127.0.0.1:1", &[("HF_HUB_OFFLINE", "1")]);
    assert!(offline.status.success(), "{}", text(&offline.stderr));
    let unreachable = user.inspect("http://127.0.0.1:1", &[]);
    assert!(unreachable.status.success(), "{}", text(&unreachable.stderr));
    assert!(text(&unreachable.stderr).contains("cannot be reached; using the cached tiny/llama"));
}

#[test]
fn a_broken_transfer_goes_on_where_it_ended() {
    let whole = fixture("llama_tiny", "model.safetensors");
    let model = resolve("model.safetensors");
    let (user, server) = (User::new(), serve("llama_tiny", &SINGLE, |file| Answer::Cut(file, 70_000)));
    let output = user.inspect(&endpoint(&server), &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read(user.snapshot().join("model.safetensors")).unwrap(), whole);
    let ranges: Vec<_> = server.requests().into_iter().filter(|request| request.path == model).collect();
    assert_eq!(ranges.len(), 2);
    assert_eq!((ranges[0].range.as_deref(), ranges[1].range.as_deref()), (None, Some("bytes=70000-")));

    // A server that knows no parts begins again.
    let (user, server) = (User::new(), serve("llama_tiny", &SINGLE, |file| Answer::CutWhole(file, 70_000)));
    let output = user.inspect(&endpoint(&server), &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read(user.snapshot().join("model.safetensors")).unwrap(), whole);

    // So does the next run after one that gave up or was killed.
    let (user, server) = (User::new(), serve("llama_tiny", &SINGLE, Answer::File));
    fs::create_dir_all(user.snapshot()).unwrap();
    fs::write(user.snapshot().join("model.safetensors.incomplete"), &whole[..1000]).unwrap();
    let output = user.inspect(&endpoint(&server), &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read(user.snapshot().join("model.safetensors")).unwrap(), whole);
    assert!(server.requests().iter().any(|request| request.range.as_deref() == Some("bytes=1000-")));
}

#[test]
fn shards_are_those_of_the_index() {
    let names = [
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00004.safetensors",
        "model-00002-of-00004.safetensors",
        "model-00003-of-00004.safetensors",
        "model-00004-of-00004.safetensors",
    ];
    let (user, server) = (User::new(), serve("llama1_tiny", &names, Answer::File));
    let output = user.inspect(&endpoint(&server), &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(result(&output)["tensors"].as_object().unwrap().len(), 12);

    let index = br#"{"weight_map": {"a": "../../../escaped.safetensors"}}"#.to_vec();
    let evil = [("config.json", 2), ("model.safetensors.index.json", index.len()), ("../../../escaped.safetensors", 1)];
    let server = Server::start([
        (LIST.to_string(), listing(&evil)),
        (resolve("config.json"), Answer::File(b"{}".to_vec())),
        (resolve("model.safetensors.index.json"), Answer::File(index)),
    ]);
    let user = User::new();
    assert_refused(&user.inspect(&endpoint(&server), &[]), &["index.json: a shard is not a plain file name; refusing"]);
    assert!(!user.0.path().join("hub/models--tiny--llama/refs").exists(), "a part of a model is no model");
}

#[test]
fn the_token_stays_with_the_host_it_belongs_to() {
    let file = fixture("llama_tiny", "model.safetensors");
    let store = Server::start([("/store".to_string(), Answer::File(file.clone()))]);
    let target = format!("http://localhost:{}/store", store.port);
    let (user, server) = (User::new(), serve("llama_tiny", &SINGLE, |_| Answer::Redirect(target.clone())));
    let output = user.inspect(&endpoint(&server), &[("HF_TOKEN", "secret")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read(user.snapshot().join("model.safetensors")).unwrap(), file);
    assert_eq!(store.requests(), [Request { path: "/store".into(), range: None, token: None }]);
}

#[test]
fn what_the_hub_refuses_is_told_with_the_way_out() {
    let refused = |answers: Vec<(String, Answer)>, expected: &[&str]| {
        let server = Server::start(answers);
        assert_refused(&User::new().inspect(&endpoint(&server), &[]), expected);
    };
    refused(vec![], &["answers 404", "no such model"]);
    refused(vec![(LIST.into(), Answer::Status(401))], &["answers 401", "/tiny/llama and set HF_TOKEN"]);
    refused(vec![(LIST.into(), Answer::File(b"<html>".to_vec()))], &["see HF_ENDPOINT"]);
    refused(vec![(LIST.into(), listing(&[("weights.gguf", 3)]))], &["there is no file config.json"]);
    let config = (resolve("config.json"), Answer::File(b"{}".to_vec()));
    refused(
        vec![(LIST.into(), listing(&[("config.json", 2)])), config],
        &["there are no weights; known are model.safe"],
    );
    let longer = (resolve("config.json"), Answer::File(vec![b' '; 100]));
    refused(vec![(LIST.into(), listing(&[("config.json", 2)])), longer], &["config.json is longer than the 2 bytes"]);
    assert_refused(&User::new().inspect("nonsense", &[]), &["HF_ENDPOINT nonsense"]);
    assert_refused(&User::new().inspect("http://127.0.0.1:1", &[]), &["http://127.0.0.1:1 cannot be reached"]);
    assert_refused(&User::new().inspect("http://127.0.0.1:1", &[("HF_HUB_OFFLINE", "1")]), &["HF_HUB_OFFLINE is set"]);
}
