//! Checks of the repository itself.

pub mod tidy;
