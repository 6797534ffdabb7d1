use super::*;
use crate::kernels::pack;

fn adam(amsgrad: bool) -> Rule {
    Rule::Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7, amsgrad }
}

fn rmsprop(momentum: f64, centered: bool) -> Rule {
    Rule::Rmsprop { rho: 0.9, momentum, epsilon: 1e-7, centered }
}

fn adafactor() -> Rule {
    Rule::Adafactor {
        beta_2_decay: -0.8,
        epsilon_1: 1e-30,
        epsilon_2: 1e-3,
        clip_threshold: 1.0,
        relative_step: true,
    }
}

fn all_rules() -> Vec<Rule> {
    vec![
        adam(false),
        adam(true),
        Rule::Sgd { momentum: 0.0, nesterov: false },
        Rule::Sgd { momentum: 0.9, nesterov: false },
        Rule::Sgd { momentum: 0.9, nesterov: true },
        rmsprop(0.0, false),
        rmsprop(0.9, false),
        rmsprop(0.0, true),
        rmsprop(0.9, true),
        Rule::Lion { beta_1: 0.9, beta_2: 0.99 },
        adafactor(),
    ]
}

fn run(config: OptimizerConfig, value: f32, gradients: &[f32], learning_rate: f64) -> f32 {
    let mut optimizer = Optimizer::new(config);
    let mut values = [value];
    for &gradient in gradients {
        let mut parameters =
            [Parameter { name: "w", matrices: None, value: &mut values, gradient: &[gradient] }];
        assert!(optimizer.apply(learning_rate, &mut parameters).unwrap().applied);
    }
    values[0]
}

#[track_caller]
fn close(got: f32, expected: f64) {
    assert!(
        (f64::from(got) - expected).abs() <= 1e-6 * expected.abs().max(1e-3),
        "{got} {expected}"
    );
}

#[test]
fn the_first_steps_by_hand() {
    // Adam's first step moves by the learning rate whatever the gradient's size.
    close(run(OptimizerConfig::new(adam(false)), 1.0, &[0.5], 0.1), 0.9);
    // Two steps of momentum 0.9: movements -0.1 * 2, then 0.9 * that - 0.1 * 1.
    let momentum = OptimizerConfig::new(Rule::Sgd { momentum: 0.9, nesterov: false });
    close(run(momentum, 1.0, &[2.0, 1.0], 0.1), 1.0 - 0.2 - 0.28);
    let nesterov = OptimizerConfig::new(Rule::Sgd { momentum: 0.9, nesterov: true });
    close(run(nesterov, 1.0, &[2.0], 0.1), 1.0 - 0.9 * 0.2 - 0.2);
    // v = 0.1 * 10^2.
    close(
        run(OptimizerConfig::new(rmsprop(0.0, false)), 10.0, &[10.0], 0.1),
        10.0 - 1.0 / 10f64.sqrt(),
    );
    // a = 1, v - a^2 = 10 - 1.
    close(run(OptimizerConfig::new(rmsprop(0.0, true)), 10.0, &[10.0], 0.1), 10.0 - 1.0 / 3.0);
}

#[test]
fn decay_and_clipping_by_hand() {
    let sgd = || OptimizerConfig::new(Rule::Sgd { momentum: 0.0, nesterov: false });
    let decay = OptimizerConfig { weight_decay: Some(0.5), ..sgd() };
    close(run(decay.clone(), 2.0, &[1.0], 0.1), 2.0 - 2.0 * 0.05 - 0.1);
    let excluded = OptimizerConfig { exclude_from_weight_decay: vec!["w".into()], ..decay };
    close(run(excluded, 2.0, &[1.0], 0.1), 1.9);
    close(run(OptimizerConfig { clipvalue: Some(0.25), ..sgd() }, 1.0, &[-3.0], 1.0), 1.25);
    close(run(OptimizerConfig { clipnorm: Some(0.25), ..sgd() }, 1.0, &[3.0], 1.0), 0.75);
    close(run(OptimizerConfig { clipnorm: Some(5.0), ..sgd() }, 1.0, &[3.0], 1.0), -2.0);

    let mut optimizer = Optimizer::new(OptimizerConfig { global_clipnorm: Some(1.0), ..sgd() });
    let (mut a, mut b) = ([0.0f32], [0.0f32]);
    let mut parameters = [
        Parameter { name: "a", matrices: None, value: &mut a, gradient: &[3.0] },
        Parameter { name: "b", matrices: None, value: &mut b, gradient: &[-4.0] },
    ];
    let report = optimizer.apply(1.0, &mut parameters).unwrap();
    assert_eq!(report, StepReport { gradient_norm: 5.0, applied: true });
    close(a[0], -0.6);
    close(b[0], 0.8);
}

#[test]
fn accumulated_gradients_act_once_as_their_mean() {
    let config = OptimizerConfig {
        gradient_accumulation_steps: Some(2),
        ..OptimizerConfig::new(adam(false))
    };
    let plain = OptimizerConfig::new(adam(false));
    close(run(config.clone(), 1.0, &[3.0], 0.1), 1.0);
    let (got, expected) =
        (run(config, 1.0, &[3.0, 1.0, 4.0, 8.0], 0.1), run(plain, 1.0, &[2.0, 6.0], 0.1));
    assert_eq!(got, expected);
}

#[test]
fn zero_padding_stays_zero_under_every_rule() {
    for rule in all_rules() {
        let config =
            OptimizerConfig { weight_decay: Some(0.1), ..OptimizerConfig::new(rule.clone()) };
        assert_eq!(run(config, 0.0, &[0.0, 0.0, 0.0], 0.1).to_bits(), 0, "{rule:?}");
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let mut optimizer = Optimizer::new(OptimizerConfig::new(adam(false)));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut value = [1.0, 2.0];
        let mut parameters =
            [Parameter { name: "w", matrices: None, value: &mut value, gradient: &[bad, 1.0] }];
        assert!(!optimizer.apply(0.1, &mut parameters).unwrap().applied);
        assert_eq!(
            (value, optimizer.iterations(), optimizer.state().unwrap().len()),
            ([1.0, 2.0], 0, 0)
        );
    }
}

#[test]
fn restored_state_continues_bit_for_bit() {
    for rule in all_rules() {
        let mut config = OptimizerConfig::new(rule.clone());
        config.gradient_accumulation_steps = Some(2);
        config.ema_momentum = Some(0.75);
        let gradients: Vec<f32> = (0..7).map(|i| (i as f32 - 2.5) * 0.3).collect();
        let mut whole = Optimizer::new(config.clone());
        let mut value = [0.7f32];
        let mut restored = Optimizer::new(config);
        let mut copy = value;
        for (i, gradient) in gradients.iter().enumerate() {
            if i == 3 {
                let state =
                    whole.state().unwrap().into_iter().map(|(k, v)| (k, v.to_vec())).collect();
                restored.set_state(whole.iterations(), state).unwrap();
                copy = value;
            }
            let step = |optimizer: &mut Optimizer, value: &mut [f32]| {
                let mut parameters =
                    [Parameter { name: "a/w", matrices: None, value, gradient: &[*gradient] }];
                optimizer.apply(0.1, &mut parameters).unwrap();
            };
            step(&mut whole, &mut value);
            if i >= 3 {
                step(&mut restored, &mut copy);
            }
        }
        assert_eq!(value[0].to_bits(), copy[0].to_bits(), "{rule:?}");
    }
}

#[test]
fn wrong_lengths_and_slots_are_errors() {
    let mut optimizer = Optimizer::new(OptimizerConfig::new(adam(false)));
    let error = optimizer.update("w", None, &mut [0.0, 0.0], &[1.0]).unwrap_err();
    assert_eq!(error.to_string(), "`w`: its gradient has 1 values, the parameter has 2");
    let mut state = BTreeMap::from([("w/momentum".to_owned(), vec![0.0])]);
    let error = optimizer.set_state(1, state.clone()).unwrap_err().to_string();
    assert!(error.contains("`w` has 1 of 2 slots: momentum, velocity"), "{error}");
    state.insert("w/velocity".into(), vec![0.0]);
    optimizer.set_state(1, state.clone()).unwrap();
    assert!(optimizer.update("w", None, &mut [0.0, 0.0], &[1.0, 1.0]).is_err());
    state.insert("w/other".into(), vec![0.0]);
    assert!(
        optimizer.set_state(1, state).unwrap_err().to_string().contains("`w/other` is unknown")
    );
}

#[test]
fn configurations_are_read_or_refused() {
    let adam_json =
        r#"{"class_name":"adam","beta_1":0.9,"beta_2":0.999,"epsilon":1e-7,"amsgrad":false"#;
    let read = |rest: &str| OptimizerConfig::from_json(&format!("{adam_json}{rest}}}"));
    assert_eq!(read("").unwrap(), OptimizerConfig::new(adam(false)));
    let full =
        read(r#","weight_decay":0.1,"clipnorm":null,"exclude_from_weight_decay":["a"]"#).unwrap();
    assert_eq!(
        (full.weight_decay, full.exclude_from_weight_decay),
        (Some(0.1), vec!["a".to_owned()])
    );
    for (rest, part) in [
        (r#","rho":0.9"#, "rho"),
        (r#","clipnorm":1.0,"clipvalue":1.0"#, "only one of"),
        (r#","clipnorm":0.0"#, "`clipnorm`: received 0"),
        (r#","clipnorm":"big""#, "big"),
        (r#","gradient_accumulation_steps":1"#, "at least 2"),
        (r#","ema_momentum":1.5"#, "`ema_momentum`: received 1.5, allowed: 0 to 1"),
        (r#","ema_momentum":0.5,"ema_overwrite_frequency":0"#, "at least 1"),
    ] {
        let error = read(rest).unwrap_err().to_string();
        assert!(error.contains(part), "{rest}: {error}");
    }
    let missing = OptimizerConfig::from_json(r#"{"class_name":"sgd","momentum":0.0}"#).unwrap_err();
    assert!(missing.to_string().contains("nesterov"), "{missing}");
    let range = r#"{"class_name":"sgd","momentum":1.5,"nesterov":false}"#;
    let error = OptimizerConfig::from_json(range).unwrap_err().to_string();
    assert_eq!(error, "`momentum`: received 1.5, allowed: 0 to 1");
}

#[test]
fn the_norm_takes_all_gradients_as_one() {
    assert_eq!(global_norm(&[&[3.0], &[0.0, 4.0], &[]]), 5.0);
    assert!(global_norm(&[&[1.0], &[f32::NAN]]).is_nan());
}

#[test]
fn state_goes_with_a_matrix_to_another_layout() {
    let (rows, columns) = (40, 3);
    let plain = Matrices { count: 1, rows, columns, lanes: 1 };
    let panels = Matrices { lanes: pack::PANEL, ..plain };
    let packed = |values: &[f32]| {
        let mut packed = vec![0.0; panels.stored()];
        pack::from_rows(values, rows, columns, &mut packed);
        packed
    };
    let gradient: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.7).sin()).collect();
    for rule in all_rules() {
        let config = OptimizerConfig {
            gradient_accumulation_steps: Some(2),
            ema_momentum: Some(0.9),
            ..OptimizerConfig::new(rule)
        };
        let (mut moving, mut staying) = (Optimizer::new(config.clone()), Optimizer::new(config));
        let mut value = vec![0.5; rows * columns];
        let mut expected = value.clone();
        let step = |optimizer: &mut Optimizer, matrices, value: &mut [f32], gradient: &[f32]| {
            let parameter = Parameter { name: "w", matrices: Some(matrices), value, gradient };
            assert!(optimizer.apply(0.1, &mut [parameter]).unwrap().applied);
        };
        for i in 0..6 {
            step(&mut staying, plain, &mut expected, &gradient);
            if i % 3 == 1 {
                let mut there = packed(&value);
                step(&mut moving, panels, &mut there, &packed(&gradient));
                pack::to_rows(&there, rows, columns, &mut value);
            } else {
                step(&mut moving, plain, &mut value, &gradient);
            }
            let far = value.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-6, "{:?}: {far}", moving.config().rule);
            assert_eq!(moving.state().unwrap().len(), staying.state().unwrap().len());
        }
    }
}
