//! Two-dimensional convolution and its gradients, channels-last, without groups, dilation or bias.

mod forward;
pub(crate) mod half;
mod int8;
mod plane;
mod tile;
mod weight_grad;
mod weights;
mod winograd;

pub use forward::Window;
pub(crate) use forward::{Walk, Write};
pub(crate) use half::pairs;
pub(crate) use int8::Int8;
pub(crate) use winograd::{Tile, Winograd};

use crate::Level;

/// What a convolution multiplies. Its sums are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// Numbers as they are.
    #[default]
    F32,
    /// Numbers rounded to bf16 (8 bits of mantissa) where that multiplies faster: of all weight gradients, and of other
    /// passes that read 32 channels or more, in whole sixteens. See [`Level::multiplies_bf16`].
    Bf16,
}

impl Products {
    /// Whether a pass that reads so many channels multiplies bf16.
    fn join(self, channels: usize) -> bool {
        self == Self::Bf16 && pairs(channels)
    }
}

/// The shape of a convolution: what torch calls `Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)`
/// applied to a batch of images of one size. The kernel is square; stride and padding are the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Images.
    pub batch: usize,
    /// Input rows, in pixels.
    pub height: usize,
    /// Input columns, in pixels.
    pub width: usize,
    /// Input channels.
    pub channels_in: usize,
    /// Output channels.
    pub channels_out: usize,
    /// Side of the kernel, in pixels.
    pub kernel: usize,
    /// Pixels from one application of the kernel to the next.
    pub stride: usize,
    /// Rows and columns of zeros on each side of the image.
    pub padding: usize,
}

impl Conv2d {
    /// Output rows: `(height + 2 * padding - kernel) / stride + 1`.
    ///
    /// # Panics
    /// When the padded image is smaller than the kernel.
    pub fn out_height(&self) -> usize {
        self.out(self.height)
    }

    /// Output columns, see [`Conv2d::out_height`].
    ///
    /// # Panics
    /// When the padded image is smaller than the kernel.
    pub fn out_width(&self) -> usize {
        self.out(self.width)
    }

    /// Values of the input: `batch * height * width * channels_in`.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels_in
    }

    /// Values of the weights: `channels_out * channels_in * kernel * kernel`.
    pub fn weight_len(&self) -> usize {
        self.channels_out * self.channels_in * self.kernel * self.kernel
    }

    /// Values of the output: `batch * out_height * out_width * channels_out`.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_height() * self.out_width() * self.channels_out
    }

    /// Multiplications and additions of one pass (forward, input or weight gradient), padding included.
    pub fn flops(&self) -> usize {
        2 * self.output_len() * self.channels_in * self.kernel * self.kernel
    }

    fn out(&self, length: usize) -> usize {
        let padded = length + 2 * self.padding;
        assert!(padded >= self.kernel, "a kernel of {} does not fit {padded} padded pixels ({self:?})", self.kernel);
        (padded - self.kernel) / self.stride + 1
    }

    fn check(&self, x: usize, weights: usize, y: usize) {
        let Self { height, width, channels_in, channels_out, kernel, stride, .. } = *self;
        let positive = [height, width, channels_in, channels_out, kernel, stride].iter().all(|size| *size > 0);
        assert!(positive, "a size of {self:?} is zero");
        assert_eq!(x, self.input_len(), "input values: given (left), wanted by {self:?} (right)");
        assert_eq!(weights, self.weight_len(), "weights: given (left), wanted by {self:?} (right)");
        assert_eq!(y, self.output_len(), "output values: given (left), wanted by {self:?} (right)");
    }
}

/// `y = x * weights`, the cross-correlation that networks call convolution.
///
/// # Shapes
/// - `x`: `[batch, height, width, channels_in]`
/// - `weights`: `[channels_out, channels_in, kernel, kernel]`
/// - `y`: `[batch, out_height, out_width, channels_out]`, overwritten
///
/// # Panics
/// When a slice's length is not that of its shape.
pub fn conv2d(conv: &Conv2d, products: Products, x: &[f32], weights: &[f32], y: &mut [f32]) {
    conv2d_at(Level::current(), conv, products, x, weights, y);
}

/// The gradient of a loss with respect to the input of [`conv2d`], given `dy`, its gradient with respect to the output.
///
/// # Shapes
/// - `dy`: `[batch, out_height, out_width, channels_out]`
/// - `weights`: `[channels_out, channels_in, kernel, kernel]`
/// - `dx`: `[batch, height, width, channels_in]`, overwritten
///
/// # Panics
/// When a slice's length is not that of its shape.
pub fn conv2d_input_grad(conv: &Conv2d, products: Products, dy: &[f32], weights: &[f32], dx: &mut [f32]) {
    conv2d_input_grad_at(Level::current(), conv, products, dy, weights, dx);
}

/// The gradient of a loss with respect to the weights of [`conv2d`], summed over the batch.
///
/// # Shapes
/// - `x`: `[batch, height, width, channels_in]`
/// - `dy`: `[batch, out_height, out_width, channels_out]`
/// - `dw`: `[channels_out, channels_in, kernel, kernel]`, overwritten
///
/// # Panics
/// When a slice's length is not that of its shape.
pub fn conv2d_weight_grad(conv: &Conv2d, products: Products, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    conv2d_weight_grad_at(Level::current(), conv, products, x, dy, dw);
}

fn conv2d_at(level: Level, conv: &Conv2d, products: Products, x: &[f32], weights: &[f32], y: &mut [f32]) {
    conv.check(x.len(), weights.len(), y.len());
    if conv.batch == 0 {
        return;
    }
    let bf16 = products.join(conv.channels_in);
    match trains(conv) {
        true => Winograd::forward(bf16, Tile::Two, level, conv, weights).over(x, y),
        false => Walk::forward(bf16, level, conv, weights).over(x, y),
    }
}

fn conv2d_input_grad_at(level: Level, conv: &Conv2d, products: Products, dy: &[f32], weights: &[f32], dx: &mut [f32]) {
    conv.check(dx.len(), weights.len(), dy.len());
    if conv.batch == 0 {
        return;
    }
    let bf16 = products.join(conv.channels_out);
    match trains(conv) {
        true => Winograd::input_grad(bf16, Tile::Two, level, conv, weights).over(dy, dx),
        false => Walk::input_grad(bf16, level, conv, weights).over(dy, dx),
    }
}

/// Whether a convolution whose weights are transformed for one pass is faster by Winograd's way: where there are tiles
/// enough to transform them for.
fn trains(conv: &Conv2d) -> bool {
    let tiles = conv.batch * conv.height.div_ceil(2) * conv.width.div_ceil(2);
    Winograd::serves(Tile::Two, conv) && conv.channels_in.min(conv.channels_out) >= 16 && tiles >= 64
}

fn conv2d_weight_grad_at(level: Level, conv: &Conv2d, products: Products, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    conv.check(x.len(), dw.len(), dy.len());
    if conv.batch > 0 {
        weight_grad::weight_grad(products == Products::Bf16, level, conv, x, dy, dw);
    } else {
        dw.fill(0.0);
    }
}

#[cfg(test)]
pub(crate) mod tests;
