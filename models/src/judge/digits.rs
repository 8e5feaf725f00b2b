//! A score from the probabilities of the digits 1 to 5.
//!
//! With p(d) the probability of digit d as the next word:
//! ```text
//! m = sum p(d)                      how much the model means to answer at all
//! E = sum d p(d) / m                the score is 25 (E - 1), of 0 to 100
//! confidence = m (1 - H / ln 5)     H the entropy of p / m
//! ```
//! Below m = 1/2 there is no answer. The likeliest digit times its probability would rank an unsure 4 below a
//! sure 3; the expectation does not.

/// Digits that are answers.
pub const DIGITS: usize = 5;
/// Least probability of all digits together.
pub const LEAST_MASS: f64 = 0.5;

/// What was read at one place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DigitReading {
    /// Probabilities of 1 to 5; they add up to `mass`.
    pub probabilities: [f64; DIGITS],
    /// Probability of all digits together.
    pub mass: f64,
    /// Mean digit, 1 to 5.
    pub expectation: f64,
    /// 0 to 1.
    pub confidence: f64,
}

impl DigitReading {
    /// From the probabilities of 1 to 5.
    pub fn new(probabilities: [f64; DIGITS]) -> Self {
        let mass: f64 = probabilities.iter().sum();
        // Without any mass all digits are equally likely: the mean, and no confidence.
        let shares = probabilities.map(|p| if mass > 0.0 { p / mass } else { 0.2 });
        let expectation = (1..).zip(shares).map(|(d, p)| f64::from(d) * p).sum();
        let entropy: f64 = shares
            .iter()
            .filter(|&&p| p > 0.0)
            .map(|p| -p * p.ln())
            .sum();
        let certainty = 1.0 - entropy / (DIGITS as f64).ln();
        Self {
            probabilities,
            mass,
            expectation,
            confidence: (mass * certainty).clamp(0.0, 1.0),
        }
    }

    /// Whether the model answered.
    pub fn is_answer(&self) -> bool {
        self.mass >= LEAST_MASS
    }

    /// 0 to 100; 0 without an answer.
    pub fn score(&self) -> f64 {
        if self.is_answer() {
            25.0 * (self.expectation - 1.0)
        } else {
            0.0
        }
    }
}

/// Probabilities of some words among all: softmax in f64 over scores in f32. `None` when a score is NaN, no
/// score is finite, or an id has none.
pub fn probabilities<const N: usize>(logits: &[f32], ids: [u32; N]) -> Option<[f64; N]> {
    if logits.iter().any(|logit| logit.is_nan()) {
        return None;
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !max.is_finite() {
        return None;
    }
    let weight = |logit: f32| (f64::from(logit) - f64::from(max)).exp();
    let sum: f64 = logits.iter().map(|&logit| weight(logit)).sum();
    let mut found = [0.0; N];
    for (found, id) in found.iter_mut().zip(ids) {
        *found = weight(*logits.get(id as usize)?) / sum;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [u32; 5] = [3, 1, 4, 6, 5];

    fn read(logits: &[f32]) -> DigitReading {
        probabilities(logits, IDS)
            .map_or_else(|| DigitReading::new([f64::NAN; 5]), DigitReading::new)
    }

    #[test]
    fn worked_by_hand() {
        // Weights 1, 2, 3, 4, 5 for the digits and 1 for one other word.
        let mut logits = [f32::NEG_INFINITY; 8];
        logits[7] = 0.0;
        for (weight, id) in (1..=5).zip(IDS) {
            logits[id as usize] = (weight as f32).ln();
        }
        let reading = read(&logits);
        assert!((reading.mass - 15.0 / 16.0).abs() < 1e-7);
        assert!((reading.expectation - 55.0 / 15.0).abs() < 1e-6);
        assert!((reading.score() - 66.666_666_7).abs() < 1e-4);
        let entropy: f64 = (1..=5)
            .map(|w| f64::from(w) / 15.0)
            .map(|p| -p * p.ln())
            .sum();
        let wanted = 15.0 / 16.0 * (1.0 - entropy / 5f64.ln());
        assert!((reading.confidence - wanted).abs() < 1e-6);
    }

    #[test]
    fn a_sure_digit_is_its_score() {
        for (index, id) in IDS.into_iter().enumerate() {
            let mut logits = [0f32; 8];
            logits[id as usize] = 60.0;
            let reading = read(&logits);
            assert!((reading.score() - 25.0 * index as f64).abs() < 1e-9);
            assert!(reading.confidence > 1.0 - 1e-9);
        }
    }

    #[test]
    fn an_unsure_four_is_above_a_sure_three() {
        let unsure = DigitReading::new([0.0, 0.1, 0.2, 0.5, 0.2]);
        let sure = DigitReading::new([0.0, 0.0, 1.0, 0.0, 0.0]);
        assert!(unsure.score() > sure.score());
        assert!(unsure.confidence < sure.confidence);
    }

    #[test]
    fn without_mass_there_is_no_answer() {
        let reading = DigitReading::new([0.09; 5]);
        assert!(!reading.is_answer() && reading.score() == 0.0);
        assert!(reading.confidence < 1e-9);
        let none = DigitReading::new([0.0; 5]);
        assert!(!none.is_answer() && none.expectation == 3.0 && none.confidence == 0.0);
        let mut logits = [0f32; 8];
        logits[0] = 20.0;
        assert!(!read(&logits).is_answer());
    }

    /// Raising the score of a digit moves the expectation towards it, from every start.
    #[test]
    fn the_expectation_is_monotone_in_every_digit() {
        let mut state = 7u32;
        for _ in 0..200 {
            let mut logits = [0f32; 8];
            for logit in &mut logits {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *logit = (state >> 8) as f32 / (1u32 << 23) as f32 * 6.0 - 3.0;
            }
            let before = read(&logits);
            for (index, id) in IDS.into_iter().enumerate() {
                let mut raised = logits;
                raised[id as usize] += 0.5;
                let after = read(&raised);
                let digit = index as f64 + 1.0;
                let gap = |reading: &DigitReading| (digit - reading.expectation).abs();
                assert!(gap(&after) < gap(&before), "{digit} {before:?} {after:?}");
                assert!(after.mass > before.mass);
            }
            // Another word takes mass and leaves the expectation.
            let mut raised = logits;
            raised[0] += 1.0;
            let after = read(&raised);
            assert!(after.mass < before.mass);
            assert!((after.expectation - before.expectation).abs() < 1e-9);
        }
    }

    #[test]
    fn unusable_scores_are_none() {
        assert!(probabilities(&[0.0, f32::NAN], [0]).is_none());
        assert!(probabilities(&[f32::NEG_INFINITY; 3], [0]).is_none());
        assert!(probabilities(&[f32::INFINITY, 0.0], [0]).is_none());
        assert!(probabilities(&[0.0], [1]).is_none());
        assert!(probabilities(&[], [0]).is_none());
    }
}
