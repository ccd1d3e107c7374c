//! Random numbers that depend on a seed and a name alone.

use tensor::RandomKey;

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub fn new(seed: u64, name: &str, step: u64) -> Self {
        let key = RandomKey::named(seed, name, step);
        let mut random = Random { state: key.stream };
        for part in [key.seed, key.step] {
            random.state = random.next() ^ part;
        }
        random
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Standard normal, by the transform of Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * self.uniform().ln()).sqrt(), std::f64::consts::TAU * self.uniform());
        radius * angle.cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_right_and_keys_matter() {
        let mut random = Random::new(3, "test", 0);
        let normals: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = normals.iter().sum::<f64>() / 2e4;
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / 2e4;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let uniform = (0..20_000).map(|_| random.uniform()).sum::<f64>() / 2e4;
        assert!((uniform - 0.5).abs() < 0.01, "{uniform}");
        let first = |seed, name, step| Random::new(seed, name, step).next();
        assert_eq!(first(3, "test", 0), first(3, "test", 0));
        let others = [first(4, "test", 0), first(3, "text", 0), first(3, "test", 1)];
        assert!(others.iter().all(|&other| other != first(3, "test", 0)));
    }
}
