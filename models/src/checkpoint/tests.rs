use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A writable copy of the sharded fixture.
fn sharded() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for entry in std::fs::read_dir(fixture("llama1_tiny/model")).expect("the fixture") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a file name");
        std::fs::write(directory.path().join(name), std::fs::read(&path).expect("read")).expect("written");
    }
    directory
}

fn refusal(directory: &Path) -> String {
    Checkpoint::open(directory).err().expect("must be refused").to_string()
}

/// Changes the text of the index.
fn edit_index(directory: &Path, change: impl Fn(String) -> String) {
    let path = directory.join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&path).expect("the index");
    std::fs::write(&path, change(text)).expect("written");
}

#[test]
fn single_files_and_shards_read_alike() {
    let single = Checkpoint::open(&fixture("llama_tiny/model")).expect("a single file");
    assert_eq!((single.files().count(), single.tensors().count()), (1, 21));
    let shards = Checkpoint::open(&fixture("llama1_tiny/model")).expect("shards");
    assert_eq!((shards.files().count(), shards.tensors().count()), (4, 12));
    let embedding = shards.get("model.embed_tokens.weight").expect("the embedding");
    assert_eq!(embedding.shape, [300, 64]);
    assert_eq!(shards.bytes("model.embed_tokens.weight").map(|bytes| bytes.len()), Some(300 * 64 * 4));
    assert!(shards.file_of("lm_head.weight").is_some_and(|path| path.ends_with("model-00004-of-00004.safetensors")));
    assert!(shards.get("absent").is_none() && shards.bytes("absent").is_none() && shards.alias("absent").is_none());
}

#[test]
fn pytorch_files_are_the_second_choice_and_may_be_shards() {
    let names = |directory: &Path| {
        let checkpoint = Checkpoint::open(directory).expect("a checkpoint");
        let file = checkpoint.file_of("rows").and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        (file.unwrap_or_default(), checkpoint.tensors().count())
    };
    assert_eq!(names(&fixture("torch_tiny")), ("model.safetensors".into(), 10));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let shard = directory.path().join("pytorch_model-00001-of-00001.bin");
    std::fs::copy(fixture("torch_tiny/pytorch_model.bin"), shard).expect("copied");
    let index = r#"{"metadata": {}, "weight_map": {"rows": "pytorch_model-00001-of-00001.bin"}}"#;
    std::fs::write(directory.path().join("pytorch_model.bin.index.json"), index).expect("written");
    assert_eq!(names(directory.path()), ("pytorch_model-00001-of-00001.bin".into(), 10));
}

#[test]
fn directories_without_a_checkpoint_say_what_is_there() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    assert!(refusal(directory.path()).ends_with("pytorch_model.bin or pytorch_model.bin.index.json here"));
    std::fs::write(directory.path().join("pytorch_model.bin"), "x").expect("written");
    assert!(refusal(directory.path()).contains("not a PyTorch checkpoint that can be read"));
    assert!(refusal(&directory.path().join("nowhere")).ends_with("there is no such directory"));
}

#[test]
fn a_missing_shard_is_named_with_a_tensor_of_its() {
    let directory = sharded();
    std::fs::remove_file(directory.path().join("model-00004-of-00004.safetensors")).expect("removed");
    let message = refusal(directory.path());
    assert!(
        message.ends_with(
            "index.json: shard `model-00004-of-00004.safetensors`, which holds `lm_head.weight`, is missing; \
             download it into the same directory"
        ),
        "{message}"
    );
}

#[test]
fn a_truncated_shard_is_named_with_its_lengths() {
    let directory = sharded();
    let path = directory.path().join("model-00002-of-00004.safetensors");
    let bytes = std::fs::read(&path).expect("the shard");
    std::fs::write(&path, &bytes[..bytes.len() - 100]).expect("written");
    let message = refusal(directory.path());
    let lengths = format!("describes {} bytes but the file has {}", bytes.len(), bytes.len() - 100);
    assert!(message.contains("model-00002-of-00004.safetensors") && message.contains(&lengths), "{message}");
}

#[test]
fn shards_outside_the_directory_are_refused() {
    for evil in ["../secret.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", "C:\\\\x", "a\\\\..\\\\b"] {
        let directory = sharded();
        edit_index(directory.path(), |text| text.replace("model-00004-of-00004.safetensors", evil));
        let message = refusal(directory.path());
        assert!(message.contains("of `lm_head.weight` is not a plain file name; refusing"), "{evil}: {message}");
    }
}

#[test]
fn an_index_that_disagrees_with_its_shards_is_refused() {
    let directory = sharded();
    edit_index(directory.path(), |text| text.replacen("00004-of", "00001-of", 1));
    let message = refusal(directory.path());
    assert!(message.contains("`weight_map.lm_head.weight` says model-00001-of-00004.safetensors, but"), "{message}");

    let directory = sharded();
    edit_index(directory.path(), |text| text.replace("weight_map", "weights"));
    assert!(refusal(directory.path()).contains("`weight_map` must be an object"));

    let directory = sharded();
    let [first, copy] =
        ["model-00001-of-00004.safetensors", "copy.safetensors"].map(|name| directory.path().join(name));
    std::fs::copy(first, copy).expect("copied");
    edit_index(directory.path(), |text| text.replacen("model-00001-of-00004.safetensors", "copy.safetensors", 1));
    let message = refusal(directory.path());
    assert!(message.contains("copy.safetensors and ") && message.contains("remove the stale one"), "{message}");
}

proptest! {
    #[test]
    fn any_index_is_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..3),
        shard in "(model-0000[1-4]-of-00004.safetensors|\\PC{0,12}|/|\\.\\./x)",
    ) {
        let directory = sharded();
        edit_index(directory.path(), |text| {
            let text = text.replacen("model-00002-of-00004.safetensors", &shard.escape_default().to_string(), 1);
            let mut characters: Vec<char> = text.chars().collect();
            for (place, character) in &changes {
                let place = place.index(characters.len());
                characters[place] = *character;
            }
            characters.into_iter().collect()
        });
        if let Ok(checkpoint) = Checkpoint::open(directory.path()) {
            let inside = |file: &Path| file.parent() == Some(directory.path());
            prop_assert!(checkpoint.files().all(inside) && checkpoint.tensors().count() <= 12);
        }
    }
}
