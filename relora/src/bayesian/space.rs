//! The box that a search stays in.

use super::error::{BayesianError, Result};

/// A box. The Gaussian process sees it as the unit cube.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    bounds: Vec<(f64, f64)>,
}

impl Space {
    /// A box with the given lowest and highest coordinates.
    ///
    /// # Errors
    /// [`BayesianError::Setting`] for no dimension, or bounds that are not finite or not in order.
    pub fn new(bounds: &[(f64, f64)]) -> Result<Self> {
        let setting = |message: String| Err(BayesianError::Setting { setting: "bounds", message });
        if bounds.is_empty() {
            return setting("a space needs at least one dimension".into());
        }
        match bounds.iter().find(|(low, high)| !(low < high && (high - low).is_finite())) {
            Some((low, high)) => setting(format!("[{low}, {high}] is not an interval of finite width above 0")),
            None => Ok(Space { bounds: bounds.to_vec() }),
        }
    }

    /// The number of dimensions.
    pub fn dimensions(&self) -> usize {
        self.bounds.len()
    }

    /// Lowest and highest coordinate of each dimension.
    pub fn bounds(&self) -> &[(f64, f64)] {
        &self.bounds
    }

    /// Whether a point is in the box.
    pub fn contains(&self, point: &[f64]) -> bool {
        point.len() == self.dimensions() && point.iter().zip(&self.bounds).all(|(x, (low, high))| low <= x && x <= high)
    }

    /// A point of the box as one of the unit cube.
    pub(super) fn unit_of(&self, point: &[f64]) -> Vec<f64> {
        point.iter().zip(&self.bounds).map(|(x, (low, high))| (x - low) / (high - low)).collect()
    }

    /// A point of the unit cube as one of the box.
    pub(super) fn point_of(&self, unit: &[f64]) -> Vec<f64> {
        unit.iter().zip(&self.bounds).map(|(u, &(low, high))| (low + u * (high - low)).clamp(low, high)).collect()
    }
}
