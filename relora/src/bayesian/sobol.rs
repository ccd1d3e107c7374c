//! Sobol's sequence, scrambled: points that fill the unit cube evenly, whatever their number.
//!
//! Direction numbers by Joe and Kuo (2008, `new-joe-kuo-6.21201`), points in Gray-code order (as SciPy has them), nested
//! uniform scrambling in Owen's sense by a hash of the reversed bits (Laine and Karras 2011, constants by Burley 2020).

use super::random::Random;

/// For each dimension from the second: the primitive polynomial's inner coefficients, and the first direction numbers,
/// whose count is its degree.
const DIRECTIONS: [(u32, &[u32]); 20] = [
    (0, &[1]),
    (1, &[1, 3]),
    (1, &[1, 3, 1]),
    (2, &[1, 1, 1]),
    (1, &[1, 1, 3, 3]),
    (4, &[1, 3, 5, 13]),
    (2, &[1, 1, 5, 5, 17]),
    (4, &[1, 1, 5, 5, 5]),
    (7, &[1, 1, 7, 11, 19]),
    (11, &[1, 1, 5, 1, 1]),
    (13, &[1, 1, 1, 3, 11]),
    (14, &[1, 3, 5, 5, 31]),
    (1, &[1, 3, 3, 9, 7, 49]),
    (13, &[1, 1, 1, 15, 21, 21]),
    (16, &[1, 3, 1, 13, 27, 49]),
    (19, &[1, 1, 1, 15, 7, 5]),
    (22, &[1, 3, 1, 15, 13, 25]),
    (25, &[1, 1, 5, 5, 19, 61]),
    (1, &[1, 3, 7, 11, 23, 15, 103]),
    (4, &[1, 3, 7, 13, 13, 15, 69]),
];

/// Points of the unit cube, one after the other. Dimensions beyond the 21st are independent random numbers.
#[derive(Clone, Debug)]
pub struct Sobol {
    /// Direction numbers of each dimension.
    directions: Vec<[u32; 32]>,
    /// One a dimension; `None` for the sequence as it is.
    scramble: Option<Vec<u32>>,
    random: Random,
    dimensions: usize,
    index: u32,
}

impl Sobol {
    /// The sequence scrambled by a seed: every point is uniform in the open unit cube.
    pub fn scrambled(dimensions: usize, seed: u64) -> Self {
        let mut random = Random::new(seed, "sobol.scramble", 0);
        let scramble = (0..dimensions).map(|_| random.next() as u32).collect();
        Sobol { scramble: Some(scramble), ..Sobol::plain(dimensions, seed) }
    }

    /// The sequence itself, which begins with the origin.
    fn plain(dimensions: usize, seed: u64) -> Self {
        let directions = (0..dimensions.min(DIRECTIONS.len() + 1)).map(direction_numbers).collect();
        Sobol { directions, scramble: None, random: Random::new(seed, "sobol.rest", 0), dimensions, index: 0 }
    }

    /// The next point as fractions of 2³².
    fn next_bits(&mut self) -> Vec<u32> {
        let gray = self.index ^ (self.index >> 1);
        self.index = self.index.wrapping_add(1);
        let one =
            |numbers: &[u32; 32]| (0..32).filter(|bit| gray >> bit & 1 == 1).fold(0, |x, bit: usize| x ^ numbers[bit]);
        let mut point: Vec<u32> = self.directions.iter().map(one).collect();
        if let Some(seeds) = &self.scramble {
            point.iter_mut().zip(seeds).for_each(|(x, &seed)| *x = scrambled(*x, seed));
        }
        point.extend((self.directions.len()..self.dimensions).map(|_| self.random.next() as u32));
        point
    }
}

impl Iterator for Sobol {
    type Item = Vec<f64>;

    fn next(&mut self) -> Option<Vec<f64>> {
        // Half a unit keeps coordinates away from 0.
        let fraction = |bits: u32| (f64::from(bits) + 0.5) / 2f64.powi(32);
        Some(self.next_bits().into_iter().map(fraction).collect())
    }
}

/// The direction numbers of one dimension, the highest bit of the first being the binary point's first digit.
fn direction_numbers(dimension: usize) -> [u32; 32] {
    let Some((coefficients, first)) = dimension.checked_sub(1).map(|index| DIRECTIONS[index]) else {
        return std::array::from_fn(|i| 1 << (31 - i));
    };
    let degree = first.len();
    let mut numbers = [0u32; 32];
    for i in 0..32 {
        numbers[i] = if i < degree {
            first[i] << (31 - i)
        } else {
            let earlier = numbers[i - degree];
            (1..degree)
                .filter(|k| coefficients >> (degree - 1 - k) & 1 == 1)
                .fold(earlier ^ (earlier >> degree), |x, k| x ^ numbers[i - k])
        };
    }
    numbers
}

/// Every bit is flipped or not by a hash of the bits above it, so that elementary intervals map to such intervals.
fn scrambled(bits: u32, seed: u32) -> u32 {
    let mut x = bits.reverse_bits();
    x ^= x.wrapping_mul(0x3d20_adea);
    x = x.wrapping_add(seed);
    x = x.wrapping_mul((seed >> 16) | 1);
    x ^= x.wrapping_mul(0x0552_6c56);
    x ^= x.wrapping_mul(0x53a2_2864);
    x.reverse_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_sequence_is_the_one_of_scipy() {
        let text = include_str!("../../tests/fixtures/bayesian.json");
        let fixture: serde_json::Value = serde_json::from_str(text).unwrap();
        let expected = fixture["sobol"].as_array().unwrap();
        let mut sobol = Sobol::plain(21, 0);
        for row in expected {
            let found: Vec<f64> = sobol.next_bits().iter().map(|&bits| f64::from(bits) / 2f64.powi(32)).collect();
            let row: Vec<f64> = row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert_eq!(found, row);
        }
        assert!(expected.len() >= 64);
    }

    #[test]
    fn scrambling_keeps_elementary_intervals_filled() {
        for seed in 0..20 {
            let points: Vec<Vec<f64>> = Sobol::scrambled(2, seed).take(16).collect();
            assert!(points.iter().flatten().all(|&x| 0.0 < x && x < 1.0));
            // The first two dimensions are a (0, 4, 2)-net: every box of 2⁻ᵏ by 2⁻⁽⁴⁻ᵏ⁾ holds one of 16 points.
            for k in 0..=4 {
                let (columns, rows) = (1usize << k, 1usize << (4 - k));
                let mut boxes: Vec<_> =
                    points.iter().map(|p| ((p[0] * columns as f64) as usize, (p[1] * rows as f64) as usize)).collect();
                boxes.sort_unstable();
                boxes.dedup();
                assert_eq!(boxes.len(), 16, "seed {seed}, boxes of 1/{columns} by 1/{rows}");
            }
        }
        let first = |seed| Sobol::scrambled(3, seed).next().unwrap();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
        assert_eq!(Sobol::scrambled(30, 1).nth(4).unwrap().len(), 30);
    }
}
