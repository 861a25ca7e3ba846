//! The sides that compute through Burn: the same block of layers that differ, under Burn's autodiff.

use crate::case::{Case, EPSILON, Layer, Operands, Pass, Work};
use burn::Tensor;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients as Graph;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, BackendTypes, Flex};
use burn::module::{Param, RunningState};
use burn::nn::conv::Conv2dConfig;
use burn::nn::{BatchNormConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Gradients, TensorData};
use gabion_learn::Mode;
use gabion_learn::nn as ours;

/// How an activation is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `[batch, channels, rows, columns]`, and lies so.
    First,
    /// `[batch, channels, rows, columns]`, and lies as `Last`: a permuted view.
    View,
    /// `[batch, rows, columns, channels]`, and lies so.
    Last,
}

/// Whose convolution and normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// gabion-learn's, which compute by gabion-kernels.
    Ours,
    /// burn::nn's.
    Burn,
    /// Nine products of shifted rows with a 3x3 kernel's taps; burn::nn's normalisation over rows.
    Matmuls,
    /// One product with nine shifted copies beside each other; burn::nn's normalisation over rows.
    Im2col,
}

trait Convolution {
    fn forward(&self, x: Tensor<4>) -> Tensor<4>;
    /// `[out, in, 3, 3]`.
    fn gradient(&self, grads: &mut Gradients) -> Tensor<4>;
}

trait Norm {
    /// Normalises, adds the residual where there is one, rectifies.
    fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4>;
    /// Of gamma and beta.
    fn gradients(&self, grads: &mut Gradients) -> [Tensor<1>; 2];
}

fn of<const D: usize>(parameter: &Param<Tensor<D>>, grads: &mut Gradients) -> Tensor<D> {
    parameter.val().grad_remove(grads).expect("a parameter is a leaf")
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn parameter<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(tensor(values, shape, device))
}

struct Ours<L>(L, Mode);

impl Convolution for Ours<ours::Conv2d> {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.0.forward(x, self.1)
    }

    fn gradient(&self, grads: &mut Gradients) -> Tensor<4> {
        of(&self.0.weight, grads)
    }
}

impl Norm for Ours<ours::BatchNorm> {
    fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
        self.0.forward(x, residual, true, self.1)
    }

    fn gradients(&self, grads: &mut Gradients) -> [Tensor<1>; 2] {
        [&self.0.weight, &self.0.bias].map(|parameter| of(parameter, grads))
    }
}

impl Convolution for burn::nn::conv::Conv2d {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(x)
    }

    fn gradient(&self, grads: &mut Gradients) -> Tensor<4> {
        of(&self.weight, grads)
    }
}

impl Norm for burn::nn::BatchNorm {
    fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
        let y = self.forward(x);
        relu(match residual {
            Some(residual) => y + residual,
            None => y,
        })
    }

    fn gradients(&self, grads: &mut Gradients) -> [Tensor<1>; 2] {
        [&self.gamma, &self.beta].map(|parameter| of(parameter, grads))
    }
}

/// burn::nn's normalisation where channels are the last axis.
struct Rows(burn::nn::BatchNorm);

impl Norm for Rows {
    fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
        let shape @ [batch, height, width, channels] = x.dims();
        let y = self.0.forward(x.reshape([batch * height * width, channels])).reshape(shape);
        relu(match residual {
            Some(residual) => y + residual,
            None => y,
        })
    }

    fn gradients(&self, grads: &mut Gradients) -> [Tensor<1>; 2] {
        Norm::gradients(&self.0, grads)
    }
}

/// `[9 * in, out]`, tap by tap.
struct Taps {
    weight: Param<Tensor<2>>,
    at_once: bool,
}

impl Convolution for Taps {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, height, width, channels] = x.dims();
        let weight = self.weight.val();
        let padded = x.pad([(0, 0), (1, 1), (1, 1), (0, 0)], 0.0f32);
        if self.at_once {
            let shifted = |row: usize, column: usize| {
                padded.clone().slice([0..batch, row..row + height, column..column + width, 0..channels])
            };
            let taps = (0..9).map(|tap| shifted(tap / 3, tap % 3)).collect();
            let columns = Tensor::cat(taps, 3).reshape([batch * height * width, 9 * channels]);
            return columns.matmul(weight).reshape([batch, height, width, channels]);
        }
        // The padded images are rows of pixels, in which a tap is a shift: a slice that needs no copy. What the sums have in
        // the padding is cut off.
        let (row, pixels) = (width + 2, batch * (height + 2) * (width + 2));
        let last = 2 * row + 2;
        let flat: Tensor<2> = padded.reshape([pixels, channels]);
        let product = |tap: usize| {
            let shift = tap / 3 * row + tap % 3;
            let pixels = flat.clone().slice([shift..shift + pixels - last, 0..channels]);
            pixels.matmul(weight.clone().slice([tap * channels..(tap + 1) * channels, 0..channels]))
        };
        let sum = (1..9).fold(product(0), |sum, tap| sum + product(tap));
        let sum = sum.pad([(0, last), (0, 0)], 0.0f32).reshape([batch, height + 2, row, channels]);
        sum.slice([0..batch, 0..height, 0..width, 0..channels])
    }

    fn gradient(&self, grads: &mut Gradients) -> Tensor<4> {
        let gradient = of(&self.weight, grads);
        let [_, channels] = gradient.dims();
        gradient.reshape([3, 3, channels, channels]).permute([3, 2, 0, 1])
    }
}

fn convolution(layers: Layers, layer: &Layer, case: &Case, device: &Device) -> Box<dyn Convolution> {
    let (width, shape) = (case.width, [case.width, case.width, 3, 3]);
    match layers {
        Layers::Ours => {
            let mut conv = ours::Conv2d::init([width; 2], 3, 1, (0, "conv"), device);
            conv.weight = parameter(&layer.weight, shape, device);
            Box::new(Ours(conv, mode(case)))
        }
        Layers::Burn => {
            let config = Conv2dConfig::new([width; 2], [3; 2]).with_bias(false);
            let mut conv = config.with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device);
            conv.weight = parameter(&layer.weight, shape, device);
            Box::new(conv)
        }
        Layers::Matmuls | Layers::Im2col => {
            let taps = tensor(&layer.weight, shape, &device.clone().inner()).permute([2, 3, 1, 0]).into_data();
            let weight = tensor(&taps.try_to_vec().expect("f32"), [9 * width, width], device);
            Box::new(Taps { weight: Param::from_tensor(weight), at_once: layers == Layers::Im2col })
        }
    }
}

fn norm(layers: Layers, layer: &Layer, case: &Case, device: &Device) -> Box<dyn Norm> {
    let shape = [case.width];
    let [gamma, beta] = [&layer.gamma, &layer.beta].map(|values| parameter(values, shape, device));
    let [mean, var] = [&layer.mean, &layer.var].map(|values| tensor(values, shape, &device.clone().inner()));
    if layers == Layers::Ours {
        let (running_mean, running_var) = (ours::Buffer::new(mean), ours::Buffer::new(var));
        return Box::new(Ours(ours::BatchNorm { weight: gamma, bias: beta, running_mean, running_var }, mode(case)));
    }
    let mut norm = BatchNormConfig::new(case.width).with_epsilon(EPSILON).init(device);
    (norm.gamma, norm.beta) = (gamma, beta);
    if case.pass == Pass::Infer {
        (norm.running_mean, norm.running_var) = (RunningState::new(mean), RunningState::new(var));
    }
    if layers == Layers::Burn { Box::new(norm) } else { Box::new(Rows(norm)) }
}

fn mode(case: &Case) -> Mode {
    match case.pass {
        Pass::Train => Mode::Train,
        Pass::Infer => Mode::Eval,
    }
}

/// Hands a tensor a gradient that is known, so that no loss is computed.
#[derive(Debug)]
struct Given;

impl<B: Backend> Backward<B, 1> for Given {
    type State = <B as BackendTypes>::FloatTensorPrimitive;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Graph, _: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, ops.state);
        }
    }
}

/// Something whose gradient with respect to `y` is `dy`.
macro_rules! given {
    ($backend:ty, $y:expr, $dy:expr) => {{
        let one = Tensor::<1>::zeros([1], &$dy.device()).try_into_primitive::<$backend>().expect("on its device");
        let y = $y.try_into_primitive::<Autodiff<$backend>>().expect("on its device");
        let dy = $dy.try_into_primitive::<$backend>().expect("on its device");
        let prepared = Backward::<$backend, 1>::prepare::<NoCheckpointing>(Given, [y.node()]);
        let one = match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(dy, one),
            OpsKind::UnTracked(prepared) => prepared.finish(one),
        };
        Tensor::<1>::from_primitive::<Autodiff<$backend>>(one)
    }};
}

/// A case through Burn.
pub struct Burned {
    case: Case,
    layers: Layers,
    order: Order,
    device: Device,
    x: Tensor<4>,
    dy: Tensor<4>,
    convs: Vec<Box<dyn Convolution>>,
    norms: Vec<Box<dyn Norm>>,
    /// Of the last pass, in the order of [`Case::outputs`].
    made: Vec<Tensor<4>>,
}

impl Burned {
    /// On a device without autodiff.
    pub fn new(case: Case, operands: &Operands, layers: Layers, order: Order, device: Device) -> Self {
        let Case { width, batch, side, .. } = case;
        let place = |values: &[f32]| {
            let first = tensor(values, [batch, width, side, side], &device);
            match order {
                Order::First => first,
                Order::View | Order::Last => {
                    let last = first.permute([0, 2, 3, 1]).into_data();
                    let last = tensor(&last.try_to_vec().expect("f32"), [batch, side, side, width], &device);
                    if order == Order::Last { last } else { last.permute([0, 3, 1, 2]) }
                }
            }
        };
        let (x, dy) = (place(&operands.x), place(&operands.dy));
        let home = if case.pass == Pass::Train { device.clone().autodiff() } else { device.clone() };
        let used = &operands.layers[..case.layers()];
        let convs = used.iter().map(|layer| convolution(layers, layer, &case, &home)).collect();
        let norms = match case.work {
            Work::Conv => Vec::new(),
            Work::Block => used.iter().map(|layer| norm(layers, layer, &case, &home)).collect(),
        };
        Self { case, layers, order, device, x, dy, convs, norms, made: Vec::new() }
    }

    fn forward(&self, x: Tensor<4>, shortcut: Tensor<4>) -> Tensor<4> {
        let y = self.convs[0].forward(x);
        match self.case.work {
            Work::Conv => y,
            Work::Block => {
                let y = self.norms[0].forward(y, None);
                self.norms[1].forward(self.convs[1].forward(y), Some(shortcut))
            }
        }
    }

    /// Computes everything anew and waits for it.
    pub fn pass(&mut self) {
        self.made.clear();
        self.made = match self.case.pass {
            Pass::Infer => vec![self.forward(self.x.clone(), self.x.clone())],
            Pass::Train => self.train(),
        };
        self.device.sync().unwrap_or_else(|error| panic!("{error}"));
    }

    fn train(&self) -> Vec<Tensor<4>> {
        let leaf = || Tensor::from_inner(self.x.clone()).require_grad();
        let x: Tensor<4> = leaf();
        // Our encoder adds a block's two gradients where they lie, by an operation that it keeps for itself.
        let apart = self.layers == Layers::Ours && self.case.work == Work::Block;
        let shortcut = if apart { leaf() } else { x.clone() };
        let y = self.forward(x.clone(), shortcut.clone());
        let mut made = vec![y.clone().inner()];
        let mut grads = self.given(y).backward();
        let mut gradient = |x: &Tensor<4>| x.grad_remove(&mut grads).expect("the input is a leaf");
        let dx = gradient(&x);
        made.push(if apart { sum(dx, gradient(&shortcut)) } else { dx });
        for (index, conv) in self.convs.iter().enumerate() {
            made.push(conv.gradient(&mut grads));
            let norm = self.norms.get(index).map(|norm| norm.gradients(&mut grads));
            made.extend(norm.into_iter().flatten().map(|gradient| gradient.reshape([-1, 1, 1, 1])));
        }
        made
    }

    fn given(&self, y: Tensor<4>) -> Tensor<1> {
        let dy = self.dy.clone();
        #[cfg(feature = "cubecl")]
        if self.device != Device::flex() {
            return given!(burn::backend::Cube, y, dy);
        }
        given!(Flex, y, dy)
    }

    /// Of the last pass, in torch's order of axes.
    pub fn values(&self) -> Vec<f32> {
        let values = self.made.iter().enumerate().flat_map(|(index, made)| {
            let activation = index == 0 || (index == 1 && self.case.pass == Pass::Train);
            let made = made.clone();
            let made = if activation && self.order == Order::Last { made.permute([0, 3, 1, 2]) } else { made };
            made.into_data().try_to_vec::<f32>().expect("f32")
        });
        values.collect()
    }
}

/// The sum of two gradients that lie channels-last.
fn sum(to: Tensor<4>, from: Tensor<4>) -> Tensor<4> {
    let [mut to, from] = [to, from].map(|x| x.try_into_primitive::<Flex>().expect("on the CPU device"));
    gabion_kernels::add_assign(to.storage_mut::<f32>(), from.storage::<f32>());
    Tensor::from_primitive::<Flex>(to)
}
