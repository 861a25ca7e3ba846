use super::losses::{close, close_data, data, numbers};
use super::{device, read, relative_error, tensors, under};
use burn::Tensor;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Int, TensorData};
use gabion_learn::attack::{Ball, Pgd};
use gabion_learn::finetune::{self, Classifier, FineTune, Minibatch, Moves};
use gabion_learn::optim::Sgd;
use gabion_learn::{Head, Mode, Model, weights};
use gabion_spec::{AdversarialLoss, Depth, Encoder, Projector, Stem};
use serde_json::Value;

/// Relative, of a gradient through the whole network.
const TOLERANCE: f64 = 1e-4;
/// Of pixels whose gradient's sign rounding may turn; PyTorch's own float32 turns none.
const FLIPPED: f64 = 2e-3;

fn golden() -> Value {
    serde_json::from_slice(&read("finetune.json")).unwrap()
}

fn labels(value: &Value) -> Tensor<1, Int> {
    let labels: Vec<i64> = value.as_array().unwrap().iter().map(|label| label.as_i64().unwrap()).collect();
    let count = labels.len();
    Tensor::from_data(TensorData::new(labels, [count]), &device())
}

#[test]
fn trades_and_its_gradients_at_logits() {
    for case in golden()["logits"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let logits = |key: &str| Tensor::<2>::from_data(data(&case[key]), &device()).require_grad();
        let (clean, attacked) = (logits("clean"), logits("attacked"));
        let beta = case["beta"].as_f64().unwrap();
        let value = finetune::trades(clean.clone(), attacked.clone(), labels(&case["labels"]), beta).total;
        close(value.clone().into_scalar::<f32>(), &case["value"], name);
        let grads = value.backward();
        close_data(&clean.grad(&grads).unwrap().into_data(), &case["gradient_clean"], name);
        close_data(&attacked.grad(&grads).unwrap().into_data(), &case["gradient_attacked"], name);
    }
}

/// The classifier of the golden file, with what moves.
fn classifier() -> Classifier {
    let encoder = Encoder { depth: Depth::Resnet18, width: 4, stem: Stem::Cifar };
    let mut given = under(&tensors("encoder_resnet18_cifar.safetensors"), "weights/");
    let model = Model::init(&encoder, &Projector { hidden: 24, output: 12 }, 1, &device());
    let model = weights::import(model, "", &mut given).unwrap();
    let mut given = under(&tensors("finetune.safetensors"), "head.");
    let head = weights::import(Head::zero(24, 5, &device()), "", &mut given).unwrap();
    Classifier { model, head }
}

/// A tensor without a graph.
fn plain<const D: usize>(data: &TensorData) -> Tensor<D> {
    Tensor::from_data(data.clone(), &device().inner())
}

fn batch(case: &Value) -> Minibatch {
    Minibatch {
        x: plain(&tensors("encoder_resnet18_cifar.safetensors")["input"]),
        labels: labels(&case["labels"]),
        start: plain(&tensors("finetune.safetensors")["start"]),
    }
}

fn attack(case: &Value) -> Pgd {
    let number = |key: &str| case[key].as_f64().unwrap() as f32;
    Pgd { ball: Ball { epsilon: number("epsilon") }, step: number("step"), steps: number("steps") as u32 }
}

/// Gradients of the parameters in the order of a visit.
struct InOrder<'a>(&'a mut Gradients, Vec<Option<TensorData>>);

impl ModuleVisitor for InOrder<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.1.push(param.val().grad_remove(self.0).map(|gradient| gradient.into_data()));
    }
}

fn gradients(classifier: &Classifier, grads: &mut Gradients) -> Vec<(String, Option<TensorData>)> {
    let mut visitor = InOrder(grads, Vec::new());
    classifier.visit(&mut visitor);
    let names = weights::names(classifier).into_iter().map(|name| name.replace("head.linear.", "head."));
    names.zip(visitor.1).collect()
}

#[test]
fn trades_moves_weights_inputs_and_running_statistics_as_in_pytorch() {
    let (case, golden) = (&golden()["classifier"], tensors("finetune.safetensors"));
    let classifier = classifier();
    let batch = batch(case);
    let recipe = FineTune { objective: AdversarialLoss::TRADES, attack: attack(case), moves: Moves::All };
    let attacked = plain(&golden["attacked"]);

    // The inputs' gradients need leaves, which the training step has not.
    let probe = classifier.clone();
    let leaf = |x: Tensor<4>| Tensor::from_inner(x).require_grad();
    let (clean_leaf, attacked_leaf) = (leaf(batch.x.clone()), leaf(attacked.clone()));
    let logits = |x| probe.forward(x, Mode::Train, Mode::Train);
    let (clean, moved) = (logits(clean_leaf.clone()), logits(attacked_leaf.clone()));
    let grads = finetune::trades(clean, moved, batch.labels.clone(), 6.0).total.backward();
    let close = |found: &TensorData, key: &str| {
        let error = relative_error(found, &golden[key]);
        assert!(error < TOLERANCE, "{key}: relative error {error:.2e}");
    };
    close(&clean_leaf.grad(&grads).unwrap().into_data(), "grad_clean");
    close(&attacked_leaf.grad(&grads).unwrap().into_data(), "grad_attacked");

    let value = finetune::loss(&classifier, &recipe, &batch, attacked).total;
    super::losses::close(value.clone().into_scalar::<f32>(), &case["loss"], "loss");
    let mut compared = 0;
    for (name, gradient) in gradients(&classifier, &mut value.backward()) {
        let key = format!("grad/{name}");
        if case["vanishing"].as_array().unwrap().iter().any(|vanishing| vanishing == &key) {
            continue;
        }
        assert_eq!(gradient.is_some(), golden.contains_key(&key), "{name}");
        if let Some(gradient) = gradient {
            close(&gradient, &key);
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared} gradients");
    let after = weights::export(&classifier, "");
    let expected = under(&golden, "after/");
    assert!(!expected.is_empty());
    for name in expected.keys() {
        close(&after[name], &format!("after/{name}"));
    }
}

#[test]
fn the_attack_on_the_divergence_is_pytorchs() {
    let (case, golden) = (&golden()["classifier"], tensors("finetune.safetensors"));
    let classifier = classifier();
    let before = weights::export(&classifier, "");
    let found = finetune::attacked(&classifier, AdversarialLoss::TRADES, &batch(case), &attack(case)).into_data();
    let (found, expected) = (found.as_slice::<f32>().unwrap(), golden["moved"].as_slice::<f32>().unwrap());
    let flipped = found.iter().zip(expected).filter(|(a, b)| (*a - *b).abs() > 1e-4).count();
    let share = flipped as f64 / expected.len() as f64;
    assert!(share < FLIPPED, "{flipped} of {} pixels differ", expected.len());
    assert_eq!(before, weights::export(&classifier, ""), "an attack leaves the running statistics alone");
}

#[test]
fn a_frozen_encoder_gets_no_gradient() {
    let case = &golden()["classifier"];
    let classifier = classifier();
    let before = weights::export(&classifier, "");
    for objective in [AdversarialLoss::Plain, AdversarialLoss::TRADES] {
        let recipe = FineTune { objective, attack: attack(case), moves: Moves::Head };
        let x = plain(&tensors("finetune.safetensors")["attacked"]);
        let value = finetune::loss(&classifier, &recipe, &batch(case), x).total;
        for (name, gradient) in gradients(&classifier, &mut value.backward()) {
            assert_eq!(gradient.is_some(), name.starts_with("head."), "{name}");
        }
        assert_eq!(before, weights::export(&classifier, ""));
    }
}

#[derive(Module, Debug)]
struct Parameters {
    matrix: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

#[test]
fn sgd_moves_as_in_pytorch() {
    let golden = &golden()["sgd"];
    let initial = |name: &str| data(&golden["initial"][name]);
    let mut module = Parameters {
        matrix: Param::from_tensor(Tensor::from_data(initial("matrix"), &device())),
        bias: Param::from_tensor(Tensor::from_data(initial("bias"), &device())),
    };
    let mut sgd = Sgd::new(0.9, 2e-4);
    for (step, expected) in golden["steps"].as_array().unwrap().iter().enumerate() {
        let values = |value: &Value| numbers(value).into_iter().map(|x| x as f32).collect::<Vec<_>>();
        let given = |name: &str, shape: &[usize]| TensorData::new(values(&expected["gradients"][name]), shape.to_vec());
        // A loss whose gradient is the given one.
        let loss = (module.matrix.val() * Tensor::from_data(given("matrix", &[3, 2]), &device())).sum()
            + (module.bias.val() * Tensor::from_data(given("bias", &[4]), &device())).sum();
        module = sgd.step(expected["rate"].as_f64().unwrap(), module, &mut loss.backward());
        for (name, found) in weights::export(&module, "") {
            let wanted = TensorData::new(values(&expected["parameters"][&name]), found.shape().clone());
            let error = relative_error(&found, &wanted);
            assert!(error < 1e-6, "step {step} {name}: relative error {error:.2e}");
        }
    }
}
