//! Bayesian optimisation for few dimensions and few, costly observations: a Gaussian process stands for the function,
//! expected improvement says where to look next.
//!
//! What lives here: the process, its fit, expected improvement, the design of first points, and the loop. What does
//! not: anything about adapters.
//!
//! ```
//! use relora::bayesian::{BayesianError, SearchOptions, Space, minimise};
//!
//! let space = Space::new(&[(-5.0, 10.0), (0.0, 15.0)])?;
//! let options = SearchOptions { steps: 30, ..SearchOptions::default() };
//! let found = minimise(&space, &options, |x| {
//!     let bent = x[1] - 0.12919 * x[0] * x[0] + 1.59155 * x[0] - 6.0;
//!     Ok::<_, BayesianError>(bent * bent + 9.60211 * x[0].cos() + 10.0)
//! })?;
//! assert!(found.best.value < 0.41, "{:?}", found.best); // Branin's function, whose minimum is 0.3979
//! # Ok::<(), BayesianError>(())
//! ```
//!
//! [`Search`] is the same by question and answer, for observations that are made several at a time.

mod acquisition;
mod cholesky;
mod error;
mod expected_improvement;
mod gaussian_process;
mod kernel;
mod lbfgs;
mod likelihood;
mod random;
mod search;
mod sobol;
mod space;

pub use error::BayesianError;
pub use expected_improvement::{expected_improvement, log_expected_improvement};
pub use gaussian_process::{GaussianProcess, Hyperparameters, Prediction};
pub use search::{Minimum, Observation, Origin, Proposal, Search, SearchOptions, Stop, minimise};
pub use sobol::Sobol;
pub use space::Space;
