//! Images and labels as tensors.

use crate::data::Images;
use burn::Tensor;
use burn::tensor::{Device, Int, TensorData};

/// The images at `indices` in `[0, 1]`, `[len, 3, height, width]`.
pub fn images(images: &Images, indices: &[usize], device: &Device) -> Tensor<4> {
    let pixels = images.height * images.width;
    let mut values = vec![0.0f32; indices.len() * 3 * pixels];
    for (&index, planes) in indices.iter().zip(values.chunks_exact_mut(3 * pixels)) {
        let image = images.image(index);
        for (channel, plane) in planes.chunks_exact_mut(pixels).enumerate() {
            for (value, pixel) in plane.iter_mut().zip(image.chunks_exact(3)) {
                *value = f32::from(pixel[channel]) / 255.0;
            }
        }
    }
    Tensor::from_data(TensorData::new(values, [indices.len(), 3, images.height, images.width]), device)
}

/// The labels at `indices`, `[len]`.
pub fn labels(images: &Images, indices: &[usize], device: &Device) -> Tensor<1, Int> {
    let labels: Vec<i64> = indices.iter().map(|&index| i64::from(images.labels[index])).collect();
    Tensor::from_data(TensorData::new(labels, [indices.len()]), device)
}

/// The greatest logit's place of each row; the first of equal ones.
///
/// # Shapes
/// - `logits`: `[batch, classes]`
pub fn argmax(logits: Tensor<2>) -> Vec<u16> {
    let classes = logits.dims()[1];
    let data = logits.into_data_as::<f32>();
    let values = data.as_slice::<f32>().expect("f32 was asked for");
    values
        .chunks_exact(classes)
        .map(|row| {
            let best = (0..classes).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
            u16::try_from(best).expect("class counts fit u16")
        })
        .collect()
}
