//! Layers with torch's parameters and torch's semantics.

use crate::init;
use crate::ops::{self, WeightGradient};
use burn::Tensor;
use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, TensorData};
use gabion_spec::Arithmetic;
use std::sync::Mutex;

/// What a forward pass does with batch normalisation and with the weights' gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics; the running statistics move; gradients reach weights and input.
    Train,
    /// Batch statistics; the running statistics stay; gradients reach the input only. For an attack inside training.
    Attack,
    /// Running statistics; gradients reach weights and input where the device records them.
    Eval,
    /// Running statistics; gradients reach the input only. For an attack on a finished model.
    Frozen,
}

impl Mode {
    /// Whether batch normalisation uses the statistics of the batch.
    pub fn uses_batch_statistics(self) -> bool {
        matches!(self, Self::Train | Self::Attack)
    }

    pub(crate) fn parameter<const D: usize>(self, parameter: &Param<Tensor<D>>) -> Tensor<D> {
        match self {
            Self::Train | Self::Eval => parameter.val(),
            Self::Attack | Self::Frozen => parameter.val().detach(),
        }
    }
}

pub(crate) fn parameter<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}

/// A convolution without bias; weight `[out, in, kernel, kernel]`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
    #[module(skip)]
    arithmetic: Arithmetic,
}

impl Conv2d {
    /// Kaiming-normal weights by fan-out, as torchvision's residual networks start.
    #[allow(clippy::cast_precision_loss)]
    pub fn init(
        [channels_in, channels_out]: [usize; 2],
        kernel: usize,
        stride: usize,
        (seed, name): (u64, &str),
        device: &Device,
    ) -> Self {
        let std = (2.0 / (channels_out * kernel * kernel) as f64).sqrt();
        let shape = [channels_out, channels_in, kernel, kernel];
        let weight = parameter(init::normal(seed, name, shape.iter().product(), std), shape, device);
        Self { weight, stride, padding: kernel / 2, arithmetic: Arithmetic::F32 }
    }

    /// The same layer in an arithmetic.
    pub(crate) fn compute_in(&mut self, arithmetic: Arithmetic) {
        self.arithmetic = arithmetic;
    }

    /// # Shapes
    /// - `x`: `[batch, in, height, width]`
    /// - output: `[batch, out, ceil(height / stride), ceil(width / stride)]`
    pub fn forward(&self, x: Tensor<4>, mode: Mode) -> Tensor<4> {
        ops::conv2d(x, mode.parameter(&self.weight), self.stride, self.padding, self.arithmetic)
    }
}

/// A linear layer in torch's layout, `y = x W^T + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    arithmetic: Arithmetic,
    #[module(skip)]
    gradient: WeightGradient,
}

impl Linear {
    /// torch's default: uniform within `1 / sqrt(in)`.
    #[allow(clippy::cast_precision_loss)]
    pub fn init(input: usize, output: usize, (seed, name): (u64, &str), device: &Device) -> Self {
        let bound = 1.0 / (input as f64).sqrt();
        let weight = init::uniform(seed, &format!("{name}.weight"), input * output, bound);
        let bias = init::uniform(seed, &format!("{name}.bias"), output, bound);
        Self::of(parameter(weight, [output, input], device), parameter(bias, [output], device))
    }

    /// From its parameters.
    pub fn of(weight: Param<Tensor<2>>, bias: Param<Tensor<1>>) -> Self {
        Self { weight, bias, arithmetic: Arithmetic::F32, gradient: WeightGradient::Whole }
    }

    /// The same layer in an arithmetic.
    pub(crate) fn compute_in(&mut self, arithmetic: Arithmetic) {
        self.arithmetic = arithmetic;
    }

    /// The same layer, whose weight's gradient may come as its factors.
    pub(crate) fn hand_over(&mut self, gradient: WeightGradient) {
        self.gradient = gradient;
    }

    /// # Shapes
    /// - `x`: `[batch, in]`
    /// - output: `[batch, out]`
    pub fn forward(&self, x: Tensor<2>, mode: Mode) -> Tensor<2> {
        ops::matmul_transposed(x, mode.parameter(&self.weight), self.arithmetic, self.gradient)
            + mode.parameter(&self.bias).unsqueeze::<2>()
    }
}

/// Batch normalisation with torch's semantics: normalises by the biased variance and keeps the unbiased one
/// (`eps` 1e-5, momentum 0.1).
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    /// `[channels]`.
    pub running_mean: Buffer,
    /// `[channels]`, unbiased.
    pub running_var: Buffer,
}

/// Added to the variance.
pub const BATCH_NORM_EPS: f64 = 1e-5;
/// Weight of the newest batch in the running statistics.
pub const BATCH_NORM_MOMENTUM: f64 = 0.1;

impl BatchNorm {
    /// Weight 1, bias 0, running mean 0, running variance 1.
    pub fn init(channels: usize, device: &Device) -> Self {
        Self {
            weight: parameter(vec![1.0; channels], [channels], device),
            bias: parameter(vec![0.0; channels], [channels], device),
            running_mean: Buffer::new(Tensor::zeros([channels], device)),
            running_var: Buffer::new(Tensor::ones([channels], device)),
        }
    }

    /// Normalises, adds `residual` where there is one, and rectifies when `relu` says so.
    ///
    /// # Shapes
    /// - `x`, `residual`, output: `[batch, channels, height, width]`
    pub fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>, relu: bool, mode: Mode) -> Tensor<4> {
        let (weight, bias) = (mode.parameter(&self.weight), mode.parameter(&self.bias));
        if !mode.uses_batch_statistics() {
            let statistics = [self.running_mean.get(), self.running_var.get()];
            return ops::batch_norm_frozen(x, weight, bias, statistics, residual, relu);
        }
        let [batch, _, height, width] = x.dims();
        let rows = batch * height * width;
        let normalised = ops::batch_norm_train(x, weight, bias, residual, relu);
        if mode == Mode::Train {
            self.track(normalised.mean, normalised.var, rows);
        }
        normalised.y
    }

    /// The same over rows.
    ///
    /// # Shapes
    /// - `x`, output: `[batch, channels]`
    pub fn forward_rows(&self, x: Tensor<2>, relu: bool, mode: Mode) -> Tensor<2> {
        let [batch, channels] = x.dims();
        self.forward(x.reshape([batch, channels, 1, 1]), None, relu, mode).reshape([batch, channels])
    }

    #[allow(clippy::cast_precision_loss)]
    fn track(&self, mean: Tensor<1>, biased_var: Tensor<1>, rows: usize) {
        assert!(rows > 1, "batch statistics need more than one value a channel, got {rows}");
        let unbiased = biased_var.mul_scalar(rows as f64 / (rows - 1) as f64);
        let blend = |old: Tensor<1>, new: Tensor<1>| {
            old.mul_scalar(1.0 - BATCH_NORM_MOMENTUM) + new.mul_scalar(BATCH_NORM_MOMENTUM)
        };
        self.running_mean.set(blend(self.running_mean.get(), mean));
        self.running_var.set(blend(self.running_var.get(), unbiased));
    }
}

/// A tensor of a module that no gradient moves and that a forward pass may replace.
///
/// Burn's own `RunningState` averages over threads and shares its value between clones; a copy of a model here has
/// buffers of its own.
#[derive(Debug)]
pub struct Buffer {
    id: ParamId,
    value: Mutex<Tensor<1>>,
}

impl Buffer {
    /// A buffer that holds `value`.
    pub fn new(value: Tensor<1>) -> Self {
        Self { id: ParamId::new(), value: Mutex::new(value) }
    }

    /// The value, without an autodiff graph.
    pub fn get(&self) -> Tensor<1> {
        self.value.lock().expect("no holder of the lock panics").clone()
    }

    /// Replaces the value.
    pub fn set(&self, value: Tensor<1>) {
        *self.value.lock().expect("no holder of the lock panics") = value.detach();
    }

    fn with(self, change: impl FnOnce(Tensor<1>) -> Tensor<1>) -> Self {
        Self { id: self.id, value: Mutex::new(change(self.value.into_inner().expect("no holder of the lock panics"))) }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self { id: self.id, value: Mutex::new(self.get()) }
    }
}

impl std::fmt::Display for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.id)
    }
}

impl ModuleDisplayDefault for Buffer {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&"Buffer".to_string()).optional()
    }
}

impl ModuleDisplay for Buffer {}

impl Module for Buffer {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.visit_float(&Param::initialized(self.id, self.get()));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let id = self.id;
        self.with(|value| {
            let (_, value, _) = mapper.map_float(Param::initialized(id, value)).consume();
            value.set_require_grad(false)
        })
    }

    fn to_device(self, device: &Device) -> Self {
        self.with(|value| value.to_device(device))
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn collect_devices(&self, mut devices: Vec<Device>) -> Vec<Device> {
        let device = self.get().device();
        if !devices.contains(&device) {
            devices.push(device);
        }
        devices
    }

    fn materialize(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone().with(Tensor::without_autodiff)
    }

    fn train(self) -> Self {
        self.with(Tensor::from_inner)
    }
}
