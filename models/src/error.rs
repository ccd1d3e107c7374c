//! The crate's error type. Every message names the file, what is wrong in it, and the way out.

use std::io;
use std::path::{Path, PathBuf};

use lora::LoraError;
use tensor::TensorError;

/// Shorthand for results of this crate.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// What can go wrong between a checkpoint on disk and a model that runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{}: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// A field of a JSON file is absent or has a wrong value.
    #[error("{}: `{field}` {message}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, with dots for nesting.
        field: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The file asks for something that would change the result and that this engine does not do.
    #[error("{}: `{field}` is {value}, which is not supported; {way_out}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What is supported.
        way_out: String,
    },
    /// A directory holds no checkpoint.
    #[error(
        "{}: no model.safetensors, model.safetensors.index.json, pytorch_model.bin or pytorch_model.bin.index.json \
         here{hint}",
        directory.display()
    )]
    NoCheckpoint {
        /// The directory.
        directory: PathBuf,
        /// What was found instead, if anything is known.
        hint: String,
    },
    /// The header of a safetensors file is malformed.
    #[error("{}: not a valid safetensors file: {message}; download or convert it again", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A safetensors file does not have the length its header says.
    #[error(
        "{}: the header describes {expected} bytes but the file has {found}; it is truncated or damaged: \
         download it again",
        path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Length that the header implies.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
    /// A PyTorch file is damaged, or holds something that is not a tensor.
    #[error(
        "{}: not a PyTorch checkpoint that can be read: {message}; download it again, or convert it to safetensors",
        path.display()
    )]
    TorchFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The index names a shard that is not there.
    #[error(
        "{}: shard `{shard}`, which holds `{tensor}`, is missing; download it into the same directory",
        index.display()
    )]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The shard's file name.
        shard: String,
        /// A tensor that should be in it.
        tensor: String,
    },
    /// The index names a shard outside its own directory.
    #[error(
        "{}: shard `{shard}` of `{tensor}` is not a plain file name; refusing to read outside the directory",
        index.display()
    )]
    ShardPath {
        /// The index file.
        index: PathBuf,
        /// What it says instead of a file name.
        shard: String,
        /// The tensor it says it of.
        tensor: String,
    },
    /// One tensor is in two shards.
    #[error("{} and {} both hold `{tensor}`; remove the stale one", first.display(), second.display())]
    DuplicateTensor {
        /// One shard.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// A tensor that the model needs is not in the checkpoint.
    #[error("{}: tensor `{tensor}` of shape {expected:?} is missing{hint}", path.display())]
    MissingTensor {
        /// The file or directory searched.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape that config.json implies.
        expected: Vec<usize>,
        /// A guess at the reason, or nothing.
        hint: String,
    },
    /// A tensor's shape is not what config.json implies.
    #[error(
        "{}: tensor `{tensor}` has shape {found:?}, but config.json implies {expected:?}; the two \
         files do not belong together",
        path.display()
    )]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape that config.json implies.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's element type cannot be a weight.
    #[error(
        "{}: tensor `{tensor}` has element type {found}; weights must be F32, F16 or BF16: convert the checkpoint",
        path.display()
    )]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The element type in the file.
        found: String,
    },
    /// The file holds tensors that the model described by config.json has no place for.
    #[error(
        "{}: {count} tensor(s) that the model of config.json does not use, first `{first}`; the two files \
         do not belong together, or the architecture has parts that are not supported",
        path.display()
    )]
    UnusedTensors {
        /// The file with the first of them.
        path: PathBuf,
        /// How many.
        count: usize,
        /// The first name, in order.
        first: String,
    },
    /// config.json ties embedding and head, but the file stores two different matrices.
    #[error(
        "{}: tie_word_embeddings is true, but `model.embed_tokens.weight` and `lm_head.weight` differ; set \
         it to false in config.json",
        path.display()
    )]
    TiedWeightsDiffer {
        /// The file or directory.
        path: PathBuf,
    },
    /// The tokenizer refuses a file or a text.
    #[error("{}: tokenizer: {message}", path.display())]
    Tokenizer {
        /// tokenizer.json, or the SentencePiece model.
        path: PathBuf,
        /// The tokenizer's words.
        message: String,
    },
    /// Two checkpoints are not two versions of one model.
    #[error("{} is no update of {}: {message}", new.display(), old.display())]
    Update {
        /// The old checkpoint's directory.
        old: PathBuf,
        /// The new checkpoint's directory.
        new: PathBuf,
        /// What differs.
        message: String,
    },
    /// An argument of a call is wrong.
    #[error("{operation}: {message}")]
    InvalidArgument {
        /// The function.
        operation: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// An adapter does not suit the model, or its file is wrong.
    #[error(transparent)]
    Adapter(#[from] LoraError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl From<ModelError> for LoraError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Tensor(error) => LoraError::Tensor(error),
            ModelError::Adapter(error) => error,
            error => LoraError::other(error),
        }
    }
}

impl ModelError {
    /// The error of a small file that could not be read.
    pub(crate) fn unread(error: LoraError) -> Self {
        match error {
            LoraError::File { path, source } => ModelError::Io { path, source },
            other => other.into(),
        }
    }

    /// Wraps an operating system error with the file's name.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        ModelError::Io { path: path.to_path_buf(), source }
    }
}
