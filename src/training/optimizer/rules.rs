//! The formulas, each one pass over slices of equal length.
//!
//! Every pass first scales and clips the gradient and decays the weight ([`Common`]), as Keras'
//! base class does before its rules. Constants are computed in f64 and rounded once.

/// Clipping and decay, the same for every rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common {
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
pub(super) struct AdamStep {
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

/// `m += (g - m)(1 - beta_1)`, `v += (g^2 - v)(1 - beta_2)`, `w -= alpha m / (sqrt(v) + epsilon)`;
/// with `v_hat` (AMSGrad) its running maximum takes the place of `v` in the last.
pub(super) fn adam(
    value: &mut [f32],
    gradient: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    v_hat: Option<&mut [f32]>,
    common: Common,
    step: AdamStep,
) {
    let moments = value.iter_mut().zip(gradient).zip(m.iter_mut().zip(v.iter_mut()));
    let advance = move |g: f32, m: &mut f32, v: &mut f32| {
        let g = common.gradient(g);
        *m += (g - *m) * step.keep_1;
        *v += (g * g - *v) * step.keep_2;
    };
    let moved = move |w: f32, m: f32, v: f32| {
        common.decayed(w) - m * step.alpha / (v.sqrt() + step.epsilon)
    };
    match v_hat {
        None => {
            for ((w, &g), (m, v)) in moments {
                advance(g, m, v);
                *w = moved(*w, *m, *v);
            }
        }
        Some(v_hat) => {
            for (((w, &g), (m, v)), v_hat) in moments.zip(v_hat) {
                advance(g, m, v);
                *v_hat = v_hat.max(*v);
                *w = moved(*w, *m, *v_hat);
            }
        }
    }
}

/// `w -= lr g`.
pub(super) fn sgd(value: &mut [f32], gradient: &[f32], common: Common) {
    for (w, &g) in value.iter_mut().zip(gradient) {
        *w = common.decayed(*w) - common.gradient(g) * common.learning_rate;
    }
}

/// `m = momentum m - lr g`, then `w += m`, or with Nesterov `w += momentum m - lr g`.
pub(super) fn sgd_momentum(
    value: &mut [f32],
    gradient: &[f32],
    m: &mut [f32],
    common: Common,
    momentum: f32,
    nesterov: bool,
) {
    for ((w, &g), m) in value.iter_mut().zip(gradient).zip(m) {
        let pull = common.gradient(g) * common.learning_rate;
        *m = *m * momentum - pull;
        let movement = if nesterov { *m * momentum - pull } else { *m };
        *w = common.decayed(*w) + movement;
    }
}

/// Constants of an RMSprop step.
#[derive(Clone, Copy, Debug)]
pub(super) struct RmspropStep {
    rho: f32,
    rest: f32,
    epsilon: f32,
    momentum: f32,
}

impl RmspropStep {
    pub fn new(rho: f64, epsilon: f64, momentum: f64) -> Self {
        Self {
            rho: rho as f32,
            rest: (1.0 - rho) as f32,
            epsilon: epsilon as f32,
            momentum: momentum as f32,
        }
    }
}

/// `v = rho v + (1 - rho) g^2`, `increment = lr g / sqrt(v + epsilon)`, `w -= increment`.
///
/// With `average` (centered) its square, `a = rho a + (1 - rho) g`, is subtracted under the root;
/// with `m` the weight moves by `m = momentum m + increment` instead.
pub(super) fn rmsprop(
    value: &mut [f32],
    gradient: &[f32],
    v: &mut [f32],
    m: Option<&mut [f32]>,
    average: Option<&mut [f32]>,
    common: Common,
    step: RmspropStep,
) {
    let increment = move |g: f32, v: &mut f32, centre: f32| {
        *v = step.rho * *v + step.rest * (g * g);
        common.learning_rate * g / (*v - centre * centre + step.epsilon).sqrt()
    };
    let centre = move |g: f32, a: &mut f32| {
        *a = step.rho * *a + step.rest * g;
        *a
    };
    let movement = move |increment: f32, m: &mut f32| {
        *m = step.momentum * *m + increment;
        *m
    };
    let weights = value.iter_mut().zip(gradient).zip(v);
    match (m, average) {
        (None, None) => weights.for_each(|((w, &g), v)| {
            *w = common.decayed(*w) - increment(common.gradient(g), v, 0.0);
        }),
        (None, Some(average)) => weights.zip(average).for_each(|(((w, &g), v), a)| {
            let g = common.gradient(g);
            *w = common.decayed(*w) - increment(g, v, centre(g, a));
        }),
        (Some(m), None) => weights.zip(m).for_each(|(((w, &g), v), m)| {
            *w = common.decayed(*w) - movement(increment(common.gradient(g), v, 0.0), m);
        }),
        (Some(m), Some(average)) => {
            weights.zip(m.iter_mut().zip(average)).for_each(|(((w, &g), v), (m, a))| {
                let g = common.gradient(g);
                *w = common.decayed(*w) - movement(increment(g, v, centre(g, a)), m);
            });
        }
    }
}

/// `sum += gradient`.
pub(super) fn add(sum: &mut [f32], gradient: &[f32]) {
    for (sum, &gradient) in sum.iter_mut().zip(gradient) {
        *sum += gradient;
    }
}

/// `values /= divisor`.
pub(super) fn divide(values: &mut [f32], divisor: f32) {
    for value in values {
        *value /= divisor;
    }
}

/// Sum of squares in f64: eight running sums over ascending positions, then added in order, so that
/// the result depends on the values only.
pub(super) fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (blocks, rest) = values.as_chunks::<8>();
    for block in blocks {
        for (sum, &value) in sums.iter_mut().zip(block) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum += f64::from(value) * f64::from(value);
    }
    sums.iter().sum()
}
