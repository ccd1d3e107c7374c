//! Where values lie on an axis, and which are written beside it.

use super::Axis;
use super::markup::short;

/// A map from values to a range of the picture.
pub struct Scale {
    logarithmic: bool,
    low: f64,
    high: f64,
    /// Where the low and the high end are drawn.
    ends: (f64, f64),
}

impl Scale {
    /// For an axis whose data lie between two values. A logarithmic axis needs data above 0; else it is drawn as a linear one.
    pub fn new(axis: &Axis, data: (f64, f64), ends: (f64, f64)) -> Self {
        let (mut low, mut high) = axis.limits.unwrap_or(data);
        let logarithmic = axis.logarithmic && low > 0.0;
        if low >= high {
            // One value, drawn in the middle.
            (low, high) = if logarithmic { (low / 2.0, low * 2.0) } else { (low - 0.5, low + 0.5) };
        }
        Scale { logarithmic, low, high, ends }
    }

    /// The picture's coordinate of a value; values beyond the axis are held at its ends.
    pub fn at(&self, value: f64) -> f64 {
        let along = |value: f64| if self.logarithmic { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let share = (along(value) - along(self.low)) / (along(self.high) - along(self.low));
        self.ends.0 + share.clamp(0.0, 1.0) * (self.ends.1 - self.ends.0)
    }

    /// Values at even distances on the axis.
    pub fn spread(&self, count: usize) -> Vec<f64> {
        let share = |index: usize| index as f64 / (count - 1) as f64;
        let value = |index| {
            if self.logarithmic {
                self.low * (self.high / self.low).powf(share(index))
            } else {
                self.low + share(index) * (self.high - self.low)
            }
        };
        (0..count).map(value).collect()
    }

    /// Round values on the axis, from three to eight of them, with their texts.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let values = if self.logarithmic { self.powers() } else { multiples(self.low, self.high, 4.0) };
        values.into_iter().map(|value| (value, short(value))).collect()
    }

    fn powers(&self) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let every = ((last - first) as usize).div_ceil(6).max(1);
        let within = |values: Vec<f64>| -> Vec<f64> {
            // A rate of 0.001 in single precision is 0.001, too.
            let slack = 1.0 + 1e-6;
            values.into_iter().filter(|&value| value * slack >= self.low && value <= self.high * slack).collect()
        };
        let power = |exponent: i32, factor: f64| factor * 10f64.powi(exponent);
        let decades = within((first..=last).step_by(every).map(|exponent| power(exponent, 1.0)).collect());
        if decades.len() >= 3 {
            return decades;
        }
        let finer = within((first..=last).flat_map(|exponent| [1.0, 2.0, 5.0].map(|f| power(exponent, f))).collect());
        if finer.len() >= 3 { finer } else { multiples(self.low, self.high, 4.0) }
    }
}

/// Multiples of 1, 2 or 5 times a power of ten, about so many.
fn multiples(low: f64, high: f64, count: f64) -> Vec<f64> {
    let rough = (high - low) / count;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|&step| step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    // The nearest number to a decimal: 3 · 0.1 is not 0.3.
    (first..=last).map(|index| (index as f64 * step * 1e12 / power).round() / 1e12 * power).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: Axis, low: f64, high: f64) -> Vec<String> {
        Scale::new(&axis, (low, high), (0.0, 1.0)).ticks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(texts(Axis::linear(""), 0.0, 1.0), ["0", "0.5", "1"]);
        assert_eq!(texts(Axis::linear(""), 0.9, 4.2), ["1", "2", "3", "4"]);
        assert_eq!(texts(Axis::linear(""), 0.0, 400.0), ["0", "100", "200", "300", "400"]);
        assert_eq!(texts(Axis::logarithmic(""), 1e-3, 1.0), ["0.001", "0.01", "0.1", "1"]);
        assert_eq!(texts(Axis::logarithmic(""), 1.0, 12.0), ["1", "2", "5", "10"]);
        assert_eq!(texts(Axis::logarithmic(""), 1e-12, 1e3).len(), 6);
    }

    #[test]
    fn values_are_held_within_the_axis() {
        let scale = Scale::new(&Axis::logarithmic(""), (1.0, 100.0), (10.0, 20.0));
        assert_eq!([0.0, 1.0, 10.0, 1e9].map(|value| (scale.at(value) * 1e6).round() / 1e6), [10.0, 10.0, 15.0, 20.0]);
        let single = Scale::new(&Axis::linear(""), (3.0, 3.0), (0.0, 1.0));
        assert_eq!(single.at(3.0), 0.5);
        assert_eq!(Scale::new(&Axis::linear(""), (0.0, 4.0), (0.0, 1.0)).spread(3), [0.0, 2.0, 4.0]);
    }
}
