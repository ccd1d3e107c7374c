//! How a command ends badly, and with which exit code.

use std::fmt;
use std::process::ExitCode;

/// Result of a command or a part of one.
pub type Outcome<T> = Result<T, Failure>;

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failure {
    /// The arguments or input files are wrong (exit code 2). The text names the file, the field and the way out.
    Input(String),
    /// The work itself failed (exit code 1).
    Work(anyhow::Error),
    /// The user interrupted (exit code 130). The text says what was saved.
    Interrupted(String),
}

impl Failure {
    /// A failure that the user can mend.
    pub fn input(message: impl fmt::Display) -> Self {
        Failure::Input(message.to_string())
    }

    /// The exit code.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Input(_) => 2,
            Failure::Work(_) => 1,
            Failure::Interrupted(_) => 130,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Input(message) | Failure::Interrupted(message) => f.write_str(message),
            Failure::Work(error) => write!(f, "{error:#}"),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Work(error.into())
    }
}
