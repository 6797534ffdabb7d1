//! The optimizers' formulas, each one pass in place over a parameter, its gradient and its state.
//!
//! A rule says what happens to one element; the pass around it is compiled for each instruction
//! set and split over the team. Elements do not meet, and products and sums are rounded one by
//! one, so the bits are the same everywhere. Every pass first scales and clips the gradient and
//! decays the weight ([`Common`]), as Keras' base class does before its rules. Constants are
//! computed in f64 and rounded once. Limit: memory bandwidth.

use super::disjoint::Disjoint;
use super::isa::{Kernel, Simd, with_isa};
use super::parallel;

/// Elements a worker should have before another is woken.
const GRAIN: usize = 16 * 1024;
/// Boundaries between workers: whole cache lines.
const ALIGN: usize = 64;

/// Clipping and decay, the same for every rule.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Weight decay times learning rate.
    pub decay: f32,
    /// Factor of the gradient (clipping by a norm).
    pub scale: f32,
    /// Largest element of the scaled gradient (clipping by value).
    pub limit: f32,
}

impl Common {
    #[inline(always)]
    fn gradient(self, gradient: f32) -> f32 {
        (gradient * self.scale).clamp(-self.limit, self.limit)
    }

    #[inline(always)]
    fn decayed(self, value: f32) -> f32 {
        value - value * self.decay
    }
}

/// Constants of an Adam step.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    alpha: f32,
    keep_1: f32,
    keep_2: f32,
    epsilon: f32,
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

/// Constants of an RMSprop step.
#[derive(Clone, Copy, Debug)]
pub struct RmspropStep {
    rho: f32,
    rest: f32,
    epsilon: f32,
    momentum: f32,
}

impl RmspropStep {
    /// The constants, rounded to f32.
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
/// with `v_hat` (AMSGrad) its running maximum takes the place of `v` in the last. All slices have
/// one length, here and below.
pub fn adam(
    value: &mut [f32],
    gradient: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    v_hat: Option<&mut [f32]>,
    common: Common,
    step: AdamStep,
) {
    match v_hat {
        None => pass(Adam(common, step), value, gradient, [m, v]),
        Some(v_hat) => pass(Adam(common, step), value, gradient, [m, v, v_hat]),
    }
}

/// `w -= lr g`.
pub fn sgd(value: &mut [f32], gradient: &[f32], common: Common) {
    pass(Sgd(common), value, gradient, []);
}

/// `m = momentum m - lr g`, then `w += m`, or with Nesterov `w += momentum m - lr g`.
pub fn sgd_momentum(
    value: &mut [f32],
    gradient: &[f32],
    m: &mut [f32],
    common: Common,
    momentum: f32,
    nesterov: bool,
) {
    pass(SgdMomentum(common, momentum, nesterov), value, gradient, [m]);
}

/// `v = rho v + (1 - rho) g^2`, `increment = lr g / sqrt(v + epsilon)`, `w -= increment`.
///
/// With `average` (centered) its square, `a = rho a + (1 - rho) g`, is subtracted under the root;
/// with `m` the weight moves by `m = momentum m + increment` instead.
pub fn rmsprop(
    value: &mut [f32],
    gradient: &[f32],
    v: &mut [f32],
    m: Option<&mut [f32]>,
    average: Option<&mut [f32]>,
    common: Common,
    step: RmspropStep,
) {
    match (m, average) {
        (None, None) => pass(Rmsprop(common, step), value, gradient, [v]),
        (Some(m), None) => pass(RmspropMomentum(common, step), value, gradient, [v, m]),
        (None, Some(a)) => pass(RmspropCentered(common, step), value, gradient, [v, a]),
        (Some(m), Some(a)) => pass(RmspropCentered(common, step), value, gradient, [v, a, m]),
    }
}

/// What happens to one element with `N` values of state.
trait Rule<const N: usize>: Copy + Sync {
    /// The new weight. Mark it `#[inline(always)]`: the loop around it must become vectors.
    fn element(self, w: f32, g: f32, state: &mut [f32; N]) -> f32;
}

/// Runs the rule over all elements.
fn pass<const N: usize>(
    rule: impl Rule<N>,
    value: &mut [f32],
    gradient: &[f32],
    state: [&mut [f32]; N],
) {
    let len = value.len();
    assert_eq!(gradient.len(), len, "optimizer: gradient");
    assert!(state.iter().all(|values| values.len() == len), "optimizer: state");
    let (value, state) = (Disjoint::new(value), state.map(Disjoint::new));
    parallel::ranges(len, GRAIN, ALIGN, |isa, range| {
        let (start, len) = (range.start, range.len());
        // SAFETY: `ranges` gives no index twice.
        let value = unsafe { value.slice(start, len) };
        // SAFETY: as above; each state is a slice of its own.
        let state = state.each_ref().map(|values| unsafe { values.slice(start, len) });
        with_isa(isa, Pass { rule, value, gradient: &gradient[range], state });
    });
}

struct Pass<'a, R, const N: usize> {
    rule: R,
    value: &'a mut [f32],
    gradient: &'a [f32],
    state: [&'a mut [f32]; N],
}

impl<R: Rule<N>, const N: usize> Kernel for Pass<'_, R, N> {
    type Output = ();

    /// One element at a time in the text; the compiler makes vectors of the set in use.
    #[inline(always)]
    fn run<S: Simd>(mut self, _: S) {
        let len = self.value.len();
        for i in 0..len {
            let mut state = [0.0; N];
            for (one, all) in state.iter_mut().zip(&self.state) {
                *one = all[i];
            }
            self.value[i] = self.rule.element(self.value[i], self.gradient[i], &mut state);
            for (one, all) in state.iter().zip(&mut self.state) {
                all[i] = *one;
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Adam(Common, AdamStep);

impl Adam {
    #[inline(always)]
    fn advance(self, g: f32, m: &mut f32, v: &mut f32) {
        let g = self.0.gradient(g);
        *m += (g - *m) * self.1.keep_1;
        *v += (g * g - *v) * self.1.keep_2;
    }

    #[inline(always)]
    fn moved(self, w: f32, m: f32, v: f32) -> f32 {
        self.0.decayed(w) - m * self.1.alpha / (v.sqrt() + self.1.epsilon)
    }
}

impl Rule<2> for Adam {
    #[inline(always)]
    fn element(self, w: f32, g: f32, [m, v]: &mut [f32; 2]) -> f32 {
        self.advance(g, m, v);
        self.moved(w, *m, *v)
    }
}

/// AMSGrad.
impl Rule<3> for Adam {
    #[inline(always)]
    fn element(self, w: f32, g: f32, [m, v, v_hat]: &mut [f32; 3]) -> f32 {
        self.advance(g, m, v);
        *v_hat = v_hat.max(*v);
        self.moved(w, *m, *v_hat)
    }
}

#[derive(Clone, Copy)]
struct Sgd(Common);

impl Rule<0> for Sgd {
    #[inline(always)]
    fn element(self, w: f32, g: f32, _: &mut [f32; 0]) -> f32 {
        self.0.decayed(w) - self.0.gradient(g) * self.0.learning_rate
    }
}

/// With momentum; the flag is for Nesterov's.
#[derive(Clone, Copy)]
struct SgdMomentum(Common, f32, bool);

impl Rule<1> for SgdMomentum {
    #[inline(always)]
    fn element(self, w: f32, g: f32, [m]: &mut [f32; 1]) -> f32 {
        let Self(common, momentum, nesterov) = self;
        let pull = common.gradient(g) * common.learning_rate;
        *m = *m * momentum - pull;
        common.decayed(w) + if nesterov { *m * momentum - pull } else { *m }
    }
}

/// `lr g / sqrt(v - a^2 + epsilon)`, advancing v and, if it is given, a.
#[inline(always)]
fn rmsprop_increment(
    common: Common,
    step: RmspropStep,
    g: f32,
    v: &mut f32,
    a: Option<&mut f32>,
) -> f32 {
    let g = common.gradient(g);
    *v = step.rho * *v + step.rest * (g * g);
    let centre = match a {
        None => 0.0,
        Some(a) => {
            *a = step.rho * *a + step.rest * g;
            *a
        }
    };
    common.learning_rate * g / (*v - centre * centre + step.epsilon).sqrt()
}

#[derive(Clone, Copy)]
struct Rmsprop(Common, RmspropStep);

impl Rule<1> for Rmsprop {
    #[inline(always)]
    fn element(self, w: f32, g: f32, [v]: &mut [f32; 1]) -> f32 {
        self.0.decayed(w) - rmsprop_increment(self.0, self.1, g, v, None)
    }
}

#[derive(Clone, Copy)]
struct RmspropMomentum(Common, RmspropStep);

impl Rule<2> for RmspropMomentum {
    #[inline(always)]
    fn element(self, w: f32, g: f32, [v, m]: &mut [f32; 2]) -> f32 {
        *m = self.1.momentum * *m + rmsprop_increment(self.0, self.1, g, v, None);
        self.0.decayed(w) - *m
    }
}

#[derive(Clone, Copy)]
struct RmspropCentered(Common, RmspropStep);

impl Rule<2> for RmspropCentered {
    #[inline(always)]
    fn element(self, w: f32, g: f32, [v, a]: &mut [f32; 2]) -> f32 {
        self.0.decayed(w) - rmsprop_increment(self.0, self.1, g, v, Some(a))
    }
}

/// With momentum.
impl Rule<3> for RmspropCentered {
    #[inline(always)]
    fn element(self, w: f32, g: f32, [v, a, m]: &mut [f32; 3]) -> f32 {
        *m = self.1.momentum * *m + rmsprop_increment(self.0, self.1, g, v, Some(a));
        self.0.decayed(w) - *m
    }
}

#[cfg(test)]
mod tests {
    use super::super::parallel::with_threads;
    use super::super::testing::{Failures, assert_same_bits, noise, on_every_isa};
    use super::*;

    const COMMON: Common = Common { learning_rate: 0.01, decay: 0.001, scale: 0.5, limit: 0.4 };

    /// A weight, its gradient and three values of state, updated by one of the rules.
    fn update(rule: usize, w: &mut [f32], g: &[f32], [a, b, c]: &mut [Vec<f32>; 3]) {
        let adam_step = AdamStep::new(0.9, 0.999, 1e-7, 0.01, 3);
        let step = RmspropStep::new(0.9, 1e-7, 0.8);
        match rule {
            0 => adam(w, g, a, b, None, COMMON, adam_step),
            1 => adam(w, g, a, b, Some(c), COMMON, adam_step),
            2 => sgd(w, g, COMMON),
            3 => sgd_momentum(w, g, a, COMMON, 0.8, false),
            4 => sgd_momentum(w, g, a, COMMON, 0.8, true),
            5 => rmsprop(w, g, a, None, None, COMMON, step),
            6 => rmsprop(w, g, a, Some(c), None, COMMON, step),
            7 => rmsprop(w, g, a, None, Some(b), COMMON, step),
            _ => rmsprop(w, g, a, Some(c), Some(b), COMMON, step),
        }
    }

    /// The same in f64, from Keras' description of each optimizer.
    fn reference(rule: usize, w: f64, g: f64, [a, b, c]: [f64; 3]) -> [f64; 4] {
        let (lr, momentum) = (0.01, 0.8);
        let w = w - w * 0.001;
        let g = (g * 0.5).clamp(-0.4, 0.4);
        let (m, v) = (0.9 * a + 0.1 * g, 0.999 * b + 0.001 * g * g);
        let alpha = lr * (1.0 - 0.999_f64.powi(3)).sqrt() / (1.0 - 0.9_f64.powi(3));
        let (velocity, average) = (0.9 * a + 0.1 * g * g, 0.9 * b + 0.1 * g);
        let plain = lr * g / (velocity + 1e-7).sqrt();
        let centred = lr * g / (velocity - average * average + 1e-7).sqrt();
        let pushed = momentum * a - lr * g;
        match rule {
            0 => [w - alpha * m / (v.sqrt() + 1e-7), m, v, c],
            1 => [w - alpha * m / (v.max(c).sqrt() + 1e-7), m, v, v.max(c)],
            2 => [w - lr * g, a, b, c],
            3 => [w + pushed, pushed, b, c],
            4 => [w + momentum * pushed - lr * g, pushed, b, c],
            5 => [w - plain, velocity, b, c],
            6 => [w - (momentum * c + plain), velocity, b, momentum * c + plain],
            7 => [w - centred, velocity, average, c],
            _ => [w - (momentum * c + centred), velocity, average, momentum * c + centred],
        }
    }

    /// Weights, gradients and states; the first state is positive and above the second's square.
    fn case(len: usize) -> (Vec<f32>, Vec<f32>, [Vec<f32>; 3]) {
        let positive = |seed| noise(len, seed).into_iter().map(|x| x.abs() + 1.2).collect();
        let small = noise(len, 4).into_iter().map(|x| x.abs() + 0.1).collect();
        (noise(len, 1), noise(len, 2), [positive(3), small, noise(len, 5)])
    }

    #[test]
    fn every_rule_follows_its_formula_at_every_length() {
        on_every_isa(|isa| {
            let mut failures = Failures::default();
            for rule in 0..9 {
                for len in (0..70).chain([GRAIN * 2 + 5]) {
                    let (before, g, old) = case(len);
                    let (mut w, mut state) = (before.clone(), old.clone());
                    update(rule, &mut w, &g, &mut state);
                    for i in 0..len {
                        let at = |values: &[f32]| f64::from(values[i]);
                        let exact =
                            reference(rule, at(&before), at(&g), [0, 1, 2].map(|k| at(&old[k])));
                        let got = [at(&w), at(&state[0]), at(&state[1]), at(&state[2])];
                        for (got, exact) in got.into_iter().zip(exact) {
                            let told =
                                || format!("{} rule {rule} [{i}]: {got}, not {exact}", isa.name());
                            failures
                                .check((got - exact).abs() <= 3e-7 * exact.abs().max(1.0), told);
                        }
                    }
                }
            }
            failures.finish();
        });
    }

    #[test]
    fn neither_the_team_nor_the_instruction_set_changes_a_bit() {
        let len = GRAIN * 5 + 3;
        for rule in 0..9 {
            let (before, g, old) = case(len);
            let run = |threads| {
                let (mut w, mut state) = (before.clone(), old.clone());
                with_threads(threads, || update(rule, &mut w, &g, &mut state));
                (w, state)
            };
            let (once, once_state) = run(1);
            on_every_isa(|isa| {
                for threads in [1, 2, 4] {
                    let (w, state) = run(threads);
                    assert_same_bits(&w, &once, isa.name());
                    for (got, once) in state.iter().zip(&once_state) {
                        assert_same_bits(got, once, isa.name());
                    }
                }
            });
        }
    }

    #[test]
    fn zero_weights_without_gradient_stay_zero() {
        // The padding of packed weights.
        for rule in 0..9 {
            let mut w = vec![0.0; 40];
            let mut state = [(); 3].map(|()| vec![0.0; 40]);
            update(rule, &mut w, &[0.0; 40], &mut state);
            assert!(w.iter().chain(state.iter().flatten()).all(|&x| x == 0.0), "rule {rule}");
        }
    }
}
