//! Many seeds' curves as one with a band.

use super::{Curve, Series};

/// The lowest, the middle and the highest of several curves at one x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

/// The band of a series: point by point when all curves have as many (a step takes each seed its own time), at most as many
/// points as places; else at the places, over the curves that reach them.
pub fn band(series: &Series, places: &[f64]) -> Vec<Point> {
    let curves: Vec<&Curve> = series.curves.iter().filter(|curve| !curve.x.is_empty()).collect();
    let length = curves.first().map_or(0, |curve| curve.x.len());
    if curves.iter().all(|curve| curve.x.len() == length) {
        let shown = length.min(places.len());
        let index = |place: usize| if shown < 2 { 0 } else { place * (length - 1) / (shown - 1) };
        let at = |index: usize, of: fn(&Curve) -> &[f64]| curves.iter().map(|curve| of(curve)[index]).collect();
        let point = |place| point(median(at(index(place), |c| &c.x))?, at(index(place), |c| &c.y));
        return (0..shown).filter_map(point).collect();
    }
    places.iter().filter_map(|&x| point(x, curves.iter().filter_map(|curve| at(curve, x)).collect())).collect()
}

fn point(x: f64, values: Vec<f64>) -> Option<Point> {
    let low = values.iter().copied().reduce(f64::min)?;
    let high = values.iter().copied().reduce(f64::max)?;
    Some(Point { x, low, median: median(values)?, high })
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    Some((values.get(values.len().checked_sub(1)? / 2)? + values.get(values.len() / 2)?) / 2.0)
}

/// A curve's value between its first and last point.
fn at(curve: &Curve, x: f64) -> Option<f64> {
    let after = curve.x.partition_point(|&own| own < x);
    let (next, value) = (*curve.x.get(after)?, *curve.y.get(after)?);
    if next == x {
        return Some(value);
    }
    let before = after.checked_sub(1)?;
    let share = (x - curve.x[before]) / (next - curve.x[before]);
    Some(curve.y[before] + share * (value - curve.y[before]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_taken_over_the_seeds_that_got_so_far() {
        let curve = |seed, points: &[(f64, f64)]| Curve::new(seed, points.iter().copied());
        let curves = vec![
            curve(0, &[(0.0, 1.0), (2.0, 3.0), (4.0, 3.0)]),
            curve(1, &[(0.0, 3.0), (2.0, 5.0), (3.0, f64::NAN)]),
            curve(2, &[]),
        ];
        let series = Series { name: "a".into(), published: false, curves };
        let point = |x, low, median, high| Point { x, low, median, high };
        let found = band(&series, &[0.0, 1.0, 3.0, 9.0]);
        assert_eq!(found, [point(0.0, 1.0, 2.0, 3.0), point(1.0, 2.0, 3.0, 4.0), point(3.0, 3.0, 3.0, 3.0)]);
        assert!(series.curves[1].diverged && !series.curves[0].diverged);
        let alone = Series { curves: series.curves[..1].to_vec(), ..series };
        let xs = |series: &Series, places: &[f64]| band(series, places).iter().map(|point| point.x).collect::<Vec<_>>();
        assert_eq!((xs(&alone, &[0.0; 9]), xs(&alone, &[0.0; 2])), (vec![0.0, 2.0, 4.0], vec![0.0, 4.0]));
        let slower = Curve { x: vec![0.0, 4.0, 8.0], ..alone.curves[0].clone() };
        let both = Series { curves: vec![alone.curves[0].clone(), slower], ..alone };
        assert_eq!(xs(&both, &[0.0; 9]), [0.0, 3.0, 6.0]);
    }
}
