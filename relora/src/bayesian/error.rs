//! What can go wrong in a search.

use lora::LoraError;

/// Shorthand for results of this module.
pub type Result<T, E = BayesianError> = std::result::Result<T, E>;

/// What can go wrong in a search.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BayesianError {
    /// A setting is out of its range.
    #[error("{setting}: {message}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A point has another number of coordinates than the space.
    #[error("{what} has {found} coordinates, the space has {expected} dimensions")]
    Dimensions {
        /// Which point.
        what: &'static str,
        /// The space's dimensions.
        expected: usize,
        /// The point's coordinates.
        found: usize,
    },
    /// A number is NaN or infinite where the Gaussian process needs a finite one.
    #[error("{what} {index} is not finite ({value})")]
    NotFinite {
        /// Which kind of number.
        what: &'static str,
        /// Which of them, from 0.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// Not one observation had a finite value.
    #[error("none of the {observations} observed values is finite; look at the function at one of the first points")]
    NothingFinite {
        /// How many were made.
        observations: usize,
    },
    /// The covariance of the observations cannot be factorised.
    #[error(
        "the covariance of {observations} observations is not positive definite; give a noise above rounding (1e-8)"
    )]
    NotPositiveDefinite {
        /// How many there are.
        observations: usize,
    },
}

impl From<BayesianError> for LoraError {
    fn from(error: BayesianError) -> Self {
        LoraError::other(error)
    }
}
