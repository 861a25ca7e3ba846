use super::{device, read, relative_error};
use burn::Tensor;
use burn::tensor::TensorData;
use gabion_learn::encoder::normalise;
use gabion_learn::{loss, optim};
use gabion_spec::{Loss, Schedule};
use serde_json::Value;

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

pub fn data(value: &Value) -> TensorData {
    let shape: Vec<usize> = numbers(&value["shape"]).iter().map(|&x| x as usize).collect();
    TensorData::new(numbers(&value["data"]).iter().map(|&x| x as f32).collect::<Vec<_>>(), shape)
}

pub fn close(found: f32, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    let error = (f64::from(found) - expected).abs() / expected.abs().max(1e-3);
    assert!(error < 1e-5, "{what}: {found} is not {expected}");
}

pub fn close_data(found: &TensorData, expected: &Value, what: &str) {
    let expected = data(expected);
    let largest = |data: &TensorData| data.iter::<f32>().fold(0f32, |most, x| most.max(x.abs()));
    // With one view the invariance is constant: its gradient is 0 but for rounding.
    if largest(&expected) < 1e-9 {
        assert!(largest(found) < 1e-6, "{what}: {} should be 0", largest(found));
        return;
    }
    let error = relative_error(found, &expected);
    assert!(error < 1e-4, "{what}: relative error {error:.2e}");
}

fn golden() -> Value {
    serde_json::from_slice(&read("losses.json")).unwrap()
}

#[test]
fn coding_rate_and_its_gradient() {
    let device = device();
    let mut rates = Vec::new();
    for case in golden()["coding_rate"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let z = Tensor::<2>::from_data(data(&case["z"]), &device).require_grad();
        let rate = loss::coding_rate(z.clone().unsqueeze::<3>(), case["distortion"].as_f64().unwrap());
        close(rate.clone().into_scalar::<f32>(), &case["rate"], name);
        let gradient = z.grad(&rate.sum().backward()).unwrap();
        close_data(&gradient.into_data(), &case["gradient"], name);
        rates.push((
            case["kind"].as_str().unwrap().to_string(),
            case["z"]["shape"].clone(),
            case["rate"].as_f64().unwrap(),
        ));
    }
    // The sign that a public library has flipped: spread embeddings have the higher rate.
    for (kind, shape, rate) in &rates {
        if kind == "spread" {
            let collapsed = rates.iter().filter(|(other, at, _)| other == "collapsed" && at == shape);
            assert!(collapsed.into_iter().all(|(_, _, lower)| rate > lower));
        }
    }
}

#[test]
fn emp_ssl_and_its_gradients() {
    let device = device();
    for case in golden()["emp_ssl"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let number = |key: &str| case[key].as_f64().unwrap();
        let spec = |invariance_weight, tcr_weight| Loss::EmpSsl {
            invariance_weight,
            tcr_weight,
            distortion: number("distortion"),
        };
        let (both, one) = ((number("invariance_weight"), number("tcr_weight")), [(1.0, 0.0), (0.0, 1.0)]);
        for ((invariance, tcr), value, gradient) in [
            (both, "total", "gradient_total"),
            (one[0], "invariance", "gradient_invariance"),
            (one[1], "tcr", "gradient_tcr"),
        ] {
            let raw = Tensor::<3>::from_data(data(&case["raw"]), &device).require_grad();
            let [views, batch, d] = raw.dims();
            let z = normalise(raw.clone().reshape([views * batch, d]));
            let total = loss::objective(&spec(invariance, tcr), z, views).total;
            close(total.clone().into_scalar::<f32>(), &case[value], &format!("{name} {value}"));
            let found = raw.grad(&total.backward()).unwrap();
            close_data(&found.into_data(), &case[gradient], &format!("{name} {gradient}"));
        }
    }
}

#[test]
fn nt_xent_and_its_gradient() {
    let device = device();
    for case in golden()["nt_xent"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let raw = |key: &str| Tensor::<2>::from_data(data(&case[key]), &device).require_grad();
        let (first, second) = (raw("raw1"), raw("raw2"));
        let z = normalise(Tensor::cat(vec![first.clone(), second.clone()], 0));
        let temperature = case["temperature"].as_f64().unwrap();
        let value = loss::nt_xent(z, temperature, case["supcon_scale"].as_bool().unwrap());
        close(value.clone().into_scalar::<f32>(), &case["value"], name);
        let grads = value.backward();
        close_data(&first.grad(&grads).unwrap().into_data(), &case["gradient1"], name);
        close_data(&second.grad(&grads).unwrap().into_data(), &case["gradient2"], name);
    }
}

#[test]
fn cosine_in_both_countings() {
    for case in golden()["schedules"].as_array().unwrap() {
        let number = |key: &str| case[key].as_u64().unwrap();
        let schedule = match case["schedule"].as_str().unwrap() {
            "per-step-length" => Schedule::PerStepLength,
            "per-batch-length" => Schedule::PerBatchLength,
            other => panic!("{other}"),
        };
        let replays = u32::try_from(number("replays")).unwrap();
        let length = optim::schedule_length(schedule, number("batches") * number("epochs"), replays);
        assert_eq!(length, number("length"));
        for (step, rate) in numbers(&case["rates"]).into_iter().enumerate() {
            let found = optim::cosine_rate(case["base"].as_f64().unwrap(), step as u64, length);
            assert!((found - rate).abs() < 1e-12, "step {step}: {found} is not {rate}");
        }
    }
}
