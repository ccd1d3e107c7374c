//! Means of a few runs and how sure they are.

/// Mean and half width of the 95 % confidence interval (Student's t).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    pub half_width: f64,
}

impl Estimate {
    pub fn of(values: &[f64]) -> Self {
        // Two-sided 95 % quantiles of t for 1, 2, … degrees of freedom.
        const T: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (count - 1.0);
        let half_width = match values.len() {
            0 | 1 => f64::NAN,
            n => T.get(n - 2).copied().unwrap_or(1.96) * (variance / count).sqrt(),
        };
        Estimate { mean, half_width }
    }

    /// With so many digits after the point.
    pub fn show(&self, digits: usize) -> String {
        match (self.mean.is_finite(), self.half_width.is_finite()) {
            (true, true) => format!("{:.digits$} ± {:.digits$}", self.mean, self.half_width),
            (true, false) => format!("{:.digits$}", self.mean),
            (false, _) => "diverges".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_student() {
        let estimate = Estimate::of(&[1.0, 2.0, 3.0]);
        assert!((estimate.mean - 2.0).abs() < 1e-12 && (estimate.half_width - 4.303 / 3f64.sqrt()).abs() < 1e-9);
        assert_eq!(Estimate::of(&[f64::INFINITY, 1.0]).show(2), "diverges");
        assert_eq!(Estimate::of(&[1.5]).show(1), "1.5");
    }
}
