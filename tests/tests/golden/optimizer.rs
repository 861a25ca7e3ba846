use super::{device, read, relative_error};
use burn::Tensor;
use burn::module::{Module, Param};
use burn::tensor::TensorData;
use gabion_learn::optim::Lars;
use gabion_learn::weights;
use gabion_spec::Optimizer;
use serde_json::Value;

#[derive(Module, Debug)]
struct Parameters {
    matrix_scaled: Param<Tensor<2>>,
    matrix_capped: Param<Tensor<2>>,
    kernel: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
    matrix_zero: Param<Tensor<2>>,
    matrix_zero_gradient: Param<Tensor<2>>,
}

fn values(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn tensor<const D: usize>(golden: &Value, name: &str, data: &Value) -> Tensor<D> {
    let shape: Vec<usize> =
        golden["initial"][name]["shape"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect();
    Tensor::from_data(TensorData::new(values(data), shape), &device())
}

#[test]
fn lars_moves_as_in_pytorch() {
    let golden: Value = serde_json::from_slice(&read("lars.json")).unwrap();
    fn initial<const D: usize>(golden: &Value, name: &str) -> Param<Tensor<D>> {
        Param::from_tensor(tensor(golden, name, &golden["initial"][name]["data"]))
    }
    let mut module = Parameters {
        matrix_scaled: initial(&golden, "matrix_scaled"),
        matrix_capped: initial(&golden, "matrix_capped"),
        kernel: initial(&golden, "kernel"),
        bias: initial(&golden, "bias"),
        matrix_zero: initial(&golden, "matrix_zero"),
        matrix_zero_gradient: initial(&golden, "matrix_zero_gradient"),
    };
    let mut lars = Lars::new(Optimizer::default());
    for (step, expected) in golden["steps"].as_array().unwrap().iter().enumerate() {
        // A loss whose gradient is the given one.
        fn term<const D: usize>(golden: &Value, given: &Value, name: &str, param: &Param<Tensor<D>>) -> Tensor<1> {
            (param.val() * tensor(golden, name, &given[name])).sum()
        }
        let given = &expected["gradients"];
        let loss = term(&golden, given, "matrix_scaled", &module.matrix_scaled)
            + term(&golden, given, "matrix_capped", &module.matrix_capped)
            + term(&golden, given, "kernel", &module.kernel)
            + term(&golden, given, "bias", &module.bias)
            + term(&golden, given, "matrix_zero", &module.matrix_zero)
            + term(&golden, given, "matrix_zero_gradient", &module.matrix_zero_gradient);
        module = lars.step(expected["rate"].as_f64().unwrap(), module, &mut loss.backward());
        for (name, found) in weights::export(&module, "") {
            let wanted = TensorData::new(values(&expected["parameters"][&name]), found.shape().clone());
            let error = relative_error(&found, &wanted);
            assert!(error < 1e-6, "step {step} {name}: relative error {error:.2e}");
        }
    }
}
