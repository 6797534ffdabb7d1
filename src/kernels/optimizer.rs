//! The update rules of the optimizers, each one pass over a parameter, its gradient and its state.
//! Limit: memory bandwidth.
//!
//! Every pass first scales and clips the gradient and decays the weight ([`Common`]), as Keras'
//! base class does before its rules. Every rule is elementwise: neither the number of threads nor
//! the instruction set changes a bit, and a zero weight with a zero gradient stays zero.

use std::iter::repeat_with;

use super::isa::{self, Kernel, Simd, with_isa};
use super::team;

/// Elements of one part of a pass: its arrays (28 bytes an element for Adam) fit a second-level
/// cache, and a part is work enough to hand to a worker.
const PART: usize = 16 * 1024;

/// Learning rate, clipping and decay, the same for every rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Common {
    /// Factor of a step.
    pub learning_rate: f32,
    /// Weight decay times learning rate.
    pub decay: f32,
    /// Factor of the gradient (clipping by a norm).
    pub scale: f32,
    /// Largest element of the scaled gradient (clipping by value); infinite for none.
    pub limit: f32,
}

impl Common {
    /// The gradient, scaled and cut.
    #[inline(always)]
    pub(super) fn gradient(self, gradient: f32) -> f32 {
        (gradient * self.scale).clamp(-self.limit, self.limit)
    }

    /// The weight, decayed.
    #[inline(always)]
    pub(super) fn decayed(self, value: f32) -> f32 {
        value - value * self.decay
    }
}

/// Constants of a step of Adam, computed in f64 and rounded once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    pub(super) alpha: f32,
    pub(super) keep_1: f32,
    pub(super) keep_2: f32,
    pub(super) epsilon: f32,
}

impl AdamStep {
    /// Step `number` (from 1): `alpha = lr * sqrt(1 - beta_2^t) / (1 - beta_1^t)`.
    pub fn new(beta_1: f64, beta_2: f64, epsilon: f64, learning_rate: f64, number: u64) -> Self {
        let power = |beta: f64| beta.powf(number as f64);
        let alpha = learning_rate * (1.0 - power(beta_2)).sqrt() / (1.0 - power(beta_1));
        Self {
            alpha: alpha as f32,
            keep_1: (1.0 - beta_1) as f32,
            keep_2: (1.0 - beta_2) as f32,
            epsilon: epsilon as f32,
        }
    }
}

/// Constants of a step of RMSprop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmspropStep {
    pub(super) rho: f32,
    pub(super) rest: f32,
    pub(super) epsilon: f32,
    pub(super) momentum: f32,
}

impl RmspropStep {
    /// `rho` and `momentum` as Keras names them.
    pub fn new(rho: f64, epsilon: f64, momentum: f64) -> Self {
        Self {
            rho: rho as f32,
            rest: (1.0 - rho) as f32,
            epsilon: epsilon as f32,
            momentum: momentum as f32,
        }
    }
}

/// `m += (g - m)(1 - beta_1)`, `v += (g^2 - v)(1 - beta_2)`, `w -= alpha m / (sqrt(v) + epsilon)`;
/// with `v_hat` (AMSGrad) its running maximum takes the place of `v` in the last.
///
/// # Panics
/// If the lengths differ.
pub fn adam(
    value: &mut [f32],
    gradient: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    v_hat: Option<&mut [f32]>,
    common: Common,
    step: AdamStep,
) {
    let rule = Adam { common, step, amsgrad: v_hat.is_some() };
    over_team(rule, value, gradient, [Some(m), Some(v), v_hat]);
}

/// `w -= lr g`.
///
/// # Panics
/// If the lengths differ.
pub fn sgd(value: &mut [f32], gradient: &[f32], common: Common) {
    over_team(Sgd { common }, value, gradient, [None, None, None]);
}

/// `m = momentum m - lr g`, then `w += m`, or with Nesterov `w += momentum m - lr g`.
///
/// # Panics
/// If the lengths differ.
pub fn sgd_momentum(
    value: &mut [f32],
    gradient: &[f32],
    m: &mut [f32],
    common: Common,
    momentum: f32,
    nesterov: bool,
) {
    let rule = SgdMomentum { common, momentum, nesterov };
    over_team(rule, value, gradient, [Some(m), None, None]);
}

/// `v = rho v + (1 - rho) g^2`, `increment = lr g / sqrt(v + epsilon)`, `w -= increment`.
///
/// With `average` (centered) its square, `a = rho a + (1 - rho) g`, is subtracted under the root;
/// with `m` the weight moves by `m = momentum m + increment` instead.
///
/// # Panics
/// If the lengths differ.
pub fn rmsprop(
    value: &mut [f32],
    gradient: &[f32],
    v: &mut [f32],
    m: Option<&mut [f32]>,
    average: Option<&mut [f32]>,
    common: Common,
    step: RmspropStep,
) {
    let rule = Rmsprop { common, step, has_momentum: m.is_some(), centered: average.is_some() };
    over_team(rule, value, gradient, [Some(v), m, average]);
}

/// `w -= lr sign(beta_1 m + (1 - beta_1) g)`, then `m = beta_2 m + (1 - beta_2) g`.
///
/// # Panics
/// If the lengths differ.
pub fn lion(
    value: &mut [f32],
    gradient: &[f32],
    m: &mut [f32],
    common: Common,
    (beta_1, beta_2): (f32, f32),
) {
    over_team(Lion { common, beta_1, beta_2 }, value, gradient, [Some(m), None, None]);
}

/// `average = keep average + (1 - keep) value`: the running mean of a weight.
///
/// # Panics
/// If the lengths differ.
pub fn running_mean(average: &mut [f32], value: &[f32], keep: f32) {
    over_team(RunningMean { keep }, average, value, [None, None, None]);
}

/// A rule on one part: `slots` are its state, empty where it has none.
trait Rule: Copy + Send + Sync {
    fn pass(self, value: &mut [f32], gradient: &[f32], slots: [&mut [f32]; 3]);
}

/// The arguments of one part, compiled for each instruction set.
struct Part<'a, R> {
    rule: R,
    value: &'a mut [f32],
    gradient: &'a [f32],
    slots: [&'a mut [f32]; 3],
}

impl<R: Rule> Kernel for Part<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.rule.pass(self.value, self.gradient, self.slots);
    }
}

/// Cuts the arrays into parts and gives them to the team.
fn over_team<R: Rule>(
    rule: R,
    value: &mut [f32],
    gradient: &[f32],
    slots: [Option<&mut [f32]>; 3],
) {
    let length = value.len();
    assert_eq!(gradient.len(), length, "gradient: length");
    assert!(slots.iter().flatten().all(|slot| slot.len() == length), "state: length");
    let [mut a, mut b, mut c] = slots
        .map(|slot| slot.unwrap_or_default().chunks_mut(PART).chain(repeat_with(Default::default)));
    let mut parts: Vec<Option<Part<'_, R>>> = value
        .chunks_mut(PART)
        .zip(gradient.chunks(PART))
        .map(|(value, gradient)| {
            let next = |slot: &mut dyn Iterator<Item = _>| slot.next().unwrap_or_default();
            let slots = [next(&mut a), next(&mut b), next(&mut c)];
            Some(Part { rule, value, gradient, slots })
        })
        .collect();
    let isa = isa::current();
    team::run_chunks(&mut parts, 1, &|_, part| {
        if let Some(part) = part[0].take() {
            with_isa(isa, part);
        }
    });
}

#[derive(Clone, Copy)]
struct Adam {
    common: Common,
    step: AdamStep,
    amsgrad: bool,
}

impl Adam {
    #[inline(always)]
    fn advance(self, g: f32, m: &mut f32, v: &mut f32) {
        let g = self.common.gradient(g);
        *m += (g - *m) * self.step.keep_1;
        *v += (g * g - *v) * self.step.keep_2;
    }

    #[inline(always)]
    fn moved(self, w: f32, m: f32, v: f32) -> f32 {
        self.common.decayed(w) - m * self.step.alpha / (v.sqrt() + self.step.epsilon)
    }
}

impl Rule for Adam {
    #[inline(always)]
    fn pass(self, value: &mut [f32], gradient: &[f32], [m, v, v_hat]: [&mut [f32]; 3]) {
        let arrays = value.iter_mut().zip(gradient).zip(m.iter_mut().zip(v));
        if self.amsgrad {
            for (((w, &g), (m, v)), v_hat) in arrays.zip(v_hat) {
                self.advance(g, m, v);
                *v_hat = v_hat.max(*v);
                *w = self.moved(*w, *m, *v_hat);
            }
        } else {
            for ((w, &g), (m, v)) in arrays {
                self.advance(g, m, v);
                *w = self.moved(*w, *m, *v);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Sgd {
    common: Common,
}

impl Rule for Sgd {
    #[inline(always)]
    fn pass(self, value: &mut [f32], gradient: &[f32], _: [&mut [f32]; 3]) {
        let common = self.common;
        for (w, &g) in value.iter_mut().zip(gradient) {
            *w = common.decayed(*w) - common.gradient(g) * common.learning_rate;
        }
    }
}

#[derive(Clone, Copy)]
struct SgdMomentum {
    common: Common,
    momentum: f32,
    nesterov: bool,
}

impl Rule for SgdMomentum {
    #[inline(always)]
    fn pass(self, value: &mut [f32], gradient: &[f32], [m, _, _]: [&mut [f32]; 3]) {
        let common = self.common;
        for ((w, &g), m) in value.iter_mut().zip(gradient).zip(m) {
            let pull = common.gradient(g) * common.learning_rate;
            *m = *m * self.momentum - pull;
            let movement = if self.nesterov { *m * self.momentum - pull } else { *m };
            *w = common.decayed(*w) + movement;
        }
    }
}

#[derive(Clone, Copy)]
struct Lion {
    common: Common,
    beta_1: f32,
    beta_2: f32,
}

impl Rule for Lion {
    #[inline(always)]
    fn pass(self, value: &mut [f32], gradient: &[f32], [m, _, _]: [&mut [f32]; 3]) {
        let common = self.common;
        for ((w, &g), m) in value.iter_mut().zip(gradient).zip(m) {
            let g = common.gradient(g);
            let pull = *m * self.beta_1 + g * (1.0 - self.beta_1);
            // The sign of zero is zero, unlike that of `f32::signum`.
            let sign = f32::from(u8::from(pull > 0.0)) - f32::from(u8::from(pull < 0.0));
            *w = common.decayed(*w) - common.learning_rate * sign;
            *m = *m * self.beta_2 + g * (1.0 - self.beta_2);
        }
    }
}

#[derive(Clone, Copy)]
struct RunningMean {
    keep: f32,
}

impl Rule for RunningMean {
    #[inline(always)]
    fn pass(self, average: &mut [f32], value: &[f32], _: [&mut [f32]; 3]) {
        for (average, &value) in average.iter_mut().zip(value) {
            *average = self.keep * *average + (1.0 - self.keep) * value;
        }
    }
}

#[derive(Clone, Copy)]
struct Rmsprop {
    common: Common,
    step: RmspropStep,
    has_momentum: bool,
    centered: bool,
}

impl Rmsprop {
    #[inline(always)]
    fn increment(self, g: f32, v: &mut f32, centre: f32) -> f32 {
        *v = self.step.rho * *v + self.step.rest * (g * g);
        self.common.learning_rate * g / (*v - centre * centre + self.step.epsilon).sqrt()
    }

    #[inline(always)]
    fn centre(self, g: f32, average: &mut f32) -> f32 {
        *average = self.step.rho * *average + self.step.rest * g;
        *average
    }

    #[inline(always)]
    fn movement(self, increment: f32, m: &mut f32) -> f32 {
        *m = self.step.momentum * *m + increment;
        *m
    }
}

impl Rule for Rmsprop {
    #[inline(always)]
    fn pass(self, value: &mut [f32], gradient: &[f32], [v, m, average]: [&mut [f32]; 3]) {
        let common = self.common;
        let arrays = value.iter_mut().zip(gradient).zip(v);
        match (self.has_momentum, self.centered) {
            (false, false) => {
                for ((w, &g), v) in arrays {
                    *w = common.decayed(*w) - self.increment(common.gradient(g), v, 0.0);
                }
            }
            (true, false) => {
                for (((w, &g), v), m) in arrays.zip(m) {
                    let increment = self.increment(common.gradient(g), v, 0.0);
                    *w = common.decayed(*w) - self.movement(increment, m);
                }
            }
            (false, true) => {
                for (((w, &g), v), a) in arrays.zip(average) {
                    let g = common.gradient(g);
                    *w = common.decayed(*w) - self.increment(g, v, self.centre(g, a));
                }
            }
            (true, true) => {
                for (((w, &g), v), (m, a)) in arrays.zip(m.iter_mut().zip(average)) {
                    let g = common.gradient(g);
                    let increment = self.increment(g, v, self.centre(g, a));
                    *w = common.decayed(*w) - self.movement(increment, m);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::isa::available;
    use crate::kernels::isa::forced::with;
    use crate::kernels::parallel::with_threads;

    const COMMON: Common = Common { learning_rate: 0.1, decay: 0.01, scale: 0.5, limit: 0.75 };

    /// Value and state after a few steps of every rule on arrays of `length`, as bits.
    fn after_steps(length: usize) -> Vec<u32> {
        let mut bits = Vec::new();
        for rule in 0..10 {
            let mut arrays = vec![vec![0.0f32; length]; 4];
            arrays[0] = (0..length).map(|i| (i as f32 * 0.37).sin()).collect();
            for step in 1..4 {
                let gradient: Vec<f32> =
                    (0..length).map(|i| ((i + step) as f32 * 0.91).cos() * 3.0).collect();
                let [w, a, b, c] = &mut arrays[..] else { unreachable!("four arrays") };
                let adam_step = AdamStep::new(0.9, 0.999, 1e-7, 0.1, step as u64);
                let rms = RmspropStep::new(0.9, 1e-7, 0.5);
                match rule {
                    0 => adam(w, &gradient, a, b, None, COMMON, adam_step),
                    1 => adam(w, &gradient, a, b, Some(c), COMMON, adam_step),
                    2 => sgd(w, &gradient, COMMON),
                    3 => sgd_momentum(w, &gradient, a, COMMON, 0.9, true),
                    4 => rmsprop(w, &gradient, a, None, None, COMMON, rms),
                    5 => rmsprop(w, &gradient, a, Some(b), None, COMMON, rms),
                    8 => lion(w, &gradient, a, COMMON, (0.9, 0.99)),
                    9 => running_mean(w, &gradient, 0.9),
                    6 => rmsprop(w, &gradient, a, None, Some(c), COMMON, rms),
                    _ => rmsprop(w, &gradient, a, Some(b), Some(c), COMMON, rms),
                }
            }
            bits.extend(arrays.iter().flatten().map(|value| value.to_bits()));
        }
        bits
    }

    #[test]
    fn threads_and_instruction_sets_change_no_bit() {
        for length in [0, 1, 7, 33, PART - 1, PART, 2 * PART + 5] {
            let expected = with_threads(1, || after_steps(length));
            for isa in available() {
                for threads in [1, 3] {
                    let got = with_threads(threads, || with(isa, || after_steps(length)));
                    assert!(got == expected, "{} with {threads} threads, {length}", isa.name());
                }
            }
        }
    }

    #[test]
    fn rules_equal_their_formulas_in_f64() {
        let (w, g, m, v) = (0.7f32, -3.0f32, 0.2f32, 0.4f32);
        let clipped = -0.75f64; // -3 scaled by 0.5, then cut.
        let (mut value, mut mean, mut square) = ([w], [m], [v]);
        let step = AdamStep::new(0.9, 0.99, 1e-3, 0.1, 2);
        adam(&mut value, &[g], &mut mean, &mut square, None, COMMON, step);
        let mean_64 = f64::from(m) + (clipped - f64::from(m)) * 0.1;
        let square_64 = f64::from(v) + (clipped * clipped - f64::from(v)) * 0.01;
        let alpha = 0.1 * (1.0f64 - 0.99 * 0.99).sqrt() / (1.0 - 0.81);
        let expected = f64::from(w) * 0.99 - alpha * mean_64 / (square_64.sqrt() + 1e-3);
        assert!((f64::from(value[0]) - expected).abs() < 1e-7, "{} {expected}", value[0]);
    }

    #[test]
    #[ignore = "bench"]
    fn bench_adam() {
        const LENGTH: usize = 8 << 20;
        let gradient = vec![0.1f32; LENGTH];
        let mut arrays = vec![vec![0.5f32; LENGTH]; 3];
        let [w, m, v] = &mut arrays[..] else { unreachable!("three arrays") };
        let mut best = f64::INFINITY;
        for step in 1..8 {
            let adam_step = AdamStep::new(0.9, 0.999, 1e-7, 0.1, step);
            let start = std::time::Instant::now();
            adam(w, &gradient, m, v, None, COMMON, adam_step);
            best = best.min(start.elapsed().as_secs_f64());
        }
        // Four arrays are read and three written.
        let bytes = 7.0 * 4.0 * LENGTH as f64;
        println!("adam: {:.1} GB/s, {} threads", bytes / best / 1e9, team::num_threads());
    }
}
