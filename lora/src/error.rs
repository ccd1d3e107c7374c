//! The crate's error type. Messages about files name the file, the field or tensor, and the way out.

use std::path::{Path, PathBuf};

use tensor::TensorError;

/// Shorthand for results of this crate.
pub type Result<T, E = LoraError> = std::result::Result<T, E>;

/// What can go wrong with adapters, their files and their training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// An operation on tensors failed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A setting is out of its range or contradicts another.
    #[error("{setting}: {message}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A target names no module of the model.
    #[error("target_modules: {target} matches no linear module of the model; the modules end in: {available}")]
    Target {
        /// The name or pattern that matched nothing.
        target: String,
        /// The distinct last path segments of the modules there are.
        available: String,
    },
    /// The operating system refused a file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A file is not of the format it should be.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// An adapter file asks for something that would change the result and that this engine does not do.
    #[error("{}: `{setting}` is {value}, which is not supported; {advice}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The setting.
        setting: String,
        /// Its value, as the file has it.
        value: String,
        /// What to do about it.
        advice: String,
    },
    /// A tensor that the adapter's configuration promises is not in its file.
    #[error("{}: tensor `{tensor}` of shape {expected:?} is missing", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A file holds a tensor that nothing would use.
    #[error("{}: tensor `{tensor}` of shape {found:?} belongs to no adapted module; {advice}", path.display())]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// What it may mean.
        advice: &'static str,
    },
    /// A tensor's shape is not the one its module needs.
    #[error("{}: tensor `{tensor}`: expected shape {expected:?}, found {found:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A result holds NaN or infinity.
    #[error("{tensor}: {message}")]
    NotFinite {
        /// The tensor or quantity.
        tensor: String,
        /// When it happened and what to try.
        message: String,
    },
    /// An error of a model or a data source, passed through.
    #[error(transparent)]
    Other(#[from] Box<dyn std::error::Error + Send + Sync>),
}

impl LoraError {
    /// Wraps an operating system's error with the file it is about.
    pub fn file(path: &Path, source: std::io::Error) -> Self {
        LoraError::File { path: path.to_path_buf(), source }
    }

    /// A format error of a file.
    pub fn format(path: &Path, message: impl ToString) -> Self {
        LoraError::Format { path: path.to_path_buf(), message: message.to_string() }
    }

    /// Wraps an error of a model or a data source.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        LoraError::Other(error.into())
    }
}
