use super::*;
use crate::ops;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Distribution, Tolerance, module};

fn named(shapes: &[(&str, &[usize])]) -> BTreeMap<String, TensorData> {
    shapes.iter().map(|(name, shape)| (name.to_string(), filled(shape))).collect()
}

/// Small values that are all different.
fn filled(shape: &[usize]) -> TensorData {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|at| ((at * 7919) % 1000) as f32 / 5000.0 - 0.1).collect();
    TensorData::new(values, shape.to_vec())
}

fn small() -> BTreeMap<String, TensorData> {
    named(&[
        ("conv1.weight", &[4, 3, 3, 3]),
        ("conv1.bias", &[4]),
        ("conv2.weight", &[6, 4, 3, 3]),
        ("conv2.bias", &[6]),
        ("linear.weight", &[5, 54]),
        ("linear.bias", &[5]),
    ])
}

fn cnn_a() -> BTreeMap<String, TensorData> {
    named(&[
        ("0.weight", &[16, 3, 4, 4]),
        ("0.bias", &[16]),
        ("2.weight", &[32, 16, 4, 4]),
        ("2.bias", &[32]),
        ("5.weight", &[100, 2048]),
        ("5.bias", &[100]),
        ("7.weight", &[10, 100]),
        ("7.bias", &[10]),
    ])
}

#[test]
fn networks_are_told_apart_by_their_tensors() {
    let of = |tensors| Architecture::recognise(&tensors).unwrap();
    assert_eq!(of(small()), Architecture::Small { widths: [4, 6], features: 54, classes: 5 });
    assert_eq!(of(cnn_a()), Architecture::CnnA);
    let crown = [("conv1.weight", &[8, 3, 3, 3][..]), ("layer1.0.conv1.bias", &[16]), ("linear2.weight", &[10, 100])];
    assert_eq!(of(named(&crown)), Architecture::Crown { width: 8, stages: 1 });
    let deeper = [&crown[..], &[("layer2.0.conv1.weight", &[16, 16, 3, 3][..])]].concat();
    assert_eq!(of(named(&deeper)), Architecture::Crown { width: 8, stages: 2 });
    let cifar: &[(&str, &[usize])] = &[
        ("layer1.0.conv1.weight", &[16, 16, 3, 3]),
        ("layer1.1.conv1.weight", &[16, 16, 3, 3]),
        ("layer3.0.bn1.running_var", &[64]),
    ];
    assert_eq!(of(named(cifar)), Architecture::Cifar { blocks: 2 });
    let unknown = Architecture::recognise(&named(&[("fc.weight", &[10, 4])])).unwrap_err();
    assert!(unknown.to_string().contains("`fc.weight`"), "{unknown}");
}

#[test]
fn what_does_not_fit_is_named() {
    let device = Device::flex();
    let error = |tensors| Network::build(tensors, &device).unwrap_err().to_string();
    let mut tensors = small();
    tensors.remove("conv2.bias");
    assert_eq!(error(tensors), "tensor `conv2.bias` is missing");
    let mut tensors = small();
    tensors.insert("conv2.bias".into(), filled(&[7]));
    assert_eq!(error(tensors), "tensor `conv2.bias` has shape [7], the model needs [6]");
    let mut tensors = small();
    tensors.insert("fc.bias".into(), filled(&[7]));
    assert_eq!(error(tensors), "tensor `fc.bias` does not belong to this model");
    let mut tensors = small();
    tensors.insert("conv1.bias".into(), TensorData::new(vec![0.0, f32::NAN, 0.0, 0.0], [4]));
    assert_eq!(error(tensors), "tensor `conv1.bias` holds a NaN or an infinity");
    assert!(error(BTreeMap::new()).contains("no tensor"));
}

#[test]
#[should_panic(expected = "features of the images")]
fn an_image_of_another_size_is_refused() {
    let device = Device::flex();
    Network::build(small(), &device).unwrap().logits(Tensor::zeros([1, 3, 8, 8], &device));
}

/// Our kernels beside Burn's own: 4x4 of stride 2 is a shape that no Gabion encoder has.
#[test]
fn even_kernels_have_burns_values_and_gradients() {
    let device = Device::flex().autodiff();
    let weight = Tensor::<4>::from_data(filled(&[16, 3, 4, 4]), &device.clone().inner());
    let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Uniform(-1.0, 1.0), &device);
    let (x, on_output) = (random([3, 3, 32, 32]), random([3, 16, 16, 16]));
    let run = |conv: &dyn Fn(Tensor<4>) -> Tensor<4>| {
        let x = x.clone().require_grad();
        let y = conv(x.clone());
        let gradient = x.grad(&(y.clone() * on_output.clone()).sum().backward()).unwrap();
        [y.into_data(), gradient.into_data()]
    };
    let ours = run(&|x| ops::conv2d(x, weight.clone(), 2, 1, Arithmetic::F32));
    let burns = run(&|x| module::conv2d(x, weight.clone(), None, ConvOptions::new([2; 2], [1; 2], [1; 2], 1)));
    for (ours, burns) in ours.iter().zip(&burns) {
        ours.assert_approx_eq::<f32>(burns, Tolerance::absolute(1e-5));
    }
}

/// Logits and gradients of an image are the same with and without a graph, and in any batch.
#[test]
fn logits_do_not_depend_on_graph_or_batch() {
    let device = Device::flex();
    for (tensors, side) in [(small(), 6), (cnn_a(), 32)] {
        let network = Network::build(tensors, &device).unwrap();
        let x = Tensor::<4>::random([5, 3, side, side], Distribution::Uniform(0.0, 1.0), &device);
        let together = network.logits(x.clone());
        let tracked = network.logits(Tensor::from_inner(x.clone()).require_grad());
        assert!(tracked.is_autodiff() && !together.is_autodiff());
        together.to_data().assert_eq(&tracked.inner().into_data(), true);
        for at in 0..5 {
            let alone = network.logits(x.clone().narrow(0, at, 1)).into_data();
            alone.assert_approx_eq::<f32>(&together.clone().narrow(0, at, 1).into_data(), Tolerance::absolute(1e-6));
        }
    }
}
