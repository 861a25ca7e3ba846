//! Weights by name: torch's names out of Burn's modules, and back in with every difference named.

use burn::Tensor;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Shape, TensorData};
use std::collections::BTreeMap;

pub use gabion_spec::Misfit;

/// Where a visitor stands in a module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub(crate) fn enter(&mut self, name: &str) {
        self.0.push(name.to_string());
    }

    pub(crate) fn exit(&mut self) {
        self.0.pop();
    }

    /// torch's name: its `Sequential`s number what has a name here.
    pub(crate) fn torch_name(&self) -> String {
        let mut name = String::new();
        for (at, part) in self.0.iter().enumerate() {
            let parent = at.checked_sub(1).map_or("", |above| self.0[above].as_str());
            // A head is one linear layer, torch's name for which is the head's own.
            if at == 0 && part == "linear" && self.0.len() > 1 {
                continue;
            }
            let part = match (parent, part.as_str()) {
                ("pre_feature", "linear") | ("downsample", "conv") | ("projection", "linear1") => "0",
                ("pre_feature" | "downsample" | "projection", "norm") => "1",
                ("projection", "linear2") => "3",
                (_, part) => part,
            };
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(part);
        }
        name
    }
}

/// Every parameter and running statistic of `module` as f32, under `prefix` and torch's names.
pub fn export<M: Module>(module: &M, prefix: &str) -> BTreeMap<String, TensorData> {
    let mut export = Export { prefix, path: Path::default(), tensors: BTreeMap::new() };
    module.visit(&mut export);
    export.tensors
}

/// Puts `tensors` into `module` and takes them out of the map. What stays in the map does not belong to the module.
///
/// # Errors
/// The first tensor that is missing, has another shape or is not finite.
pub fn import<M: Module>(module: M, prefix: &str, tensors: &mut BTreeMap<String, TensorData>) -> Result<M, Misfit> {
    let mut misfit = None;
    let module = replace_data(module, |name, expected| {
        if misfit.is_some() {
            return None;
        }
        let name = format!("{prefix}{name}");
        match take(tensors, name, expected) {
            Ok(data) => Some(data),
            Err(problem) => {
                misfit = Some(problem);
                None
            }
        }
    });
    match misfit {
        Some(problem) => Err(problem),
        None => Ok(module),
    }
}

pub(crate) fn take(
    tensors: &mut BTreeMap<String, TensorData>,
    name: String,
    expected: &[usize],
) -> Result<TensorData, Misfit> {
    let Some(data) = tensors.remove(&name) else { return Err(Misfit::Missing { name }) };
    let found = data.shape().to_vec();
    if found != expected {
        return Err(Misfit::Shape { name, found, expected: expected.to_vec() });
    }
    let finite = data.as_slice::<f32>().is_ok_and(|values| values.iter().all(|value| value.is_finite()));
    if finite { Ok(data) } else { Err(Misfit::NotFinite { name }) }
}

/// Every parameter and running statistic, flat and without a graph, under torch's names.
pub(crate) fn flat<M: Module>(module: &M) -> Vec<(String, Tensor<1>)> {
    struct Flat(Path, Vec<(String, Tensor<1>)>);
    impl ModuleVisitor for Flat {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val().inner();
            let count = value.shape().num_elements();
            self.1.push((self.0.torch_name(), value.reshape([count])));
        }
    }
    let mut flat = Flat(Path::default(), Vec::new());
    module.visit(&mut flat);
    flat.1
}

/// A flat tensor's data in another shape.
pub(crate) fn tensor_of(flat: &Tensor<1>, shape: &[usize]) -> TensorData {
    let values = flat.to_data_as::<f32>().try_into_vec::<f32>().expect("f32 was asked for");
    TensorData::new(values, Shape::from(shape.to_vec()))
}

/// `module` with the tensors that `with` gives for a name and a shape.
pub(crate) fn replace<M: Module>(module: M, with: impl FnMut(&str, &[usize]) -> Option<TensorData>) -> M {
    replace_data(module, with)
}

fn replace_data<M: Module>(module: M, with: impl FnMut(&str, &[usize]) -> Option<TensorData>) -> M {
    module.map(&mut Replace { path: Path::default(), with })
}

struct Export<'a> {
    prefix: &'a str,
    path: Path,
    tensors: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Export<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = format!("{}{}", self.prefix, self.path.torch_name());
        self.tensors.insert(name, param.val().to_data_as::<f32>());
    }
}

struct Replace<F> {
    path: Path,
    with: F,
}

impl<F: FnMut(&str, &[usize]) -> Option<TensorData>> ModuleMapper for Replace<F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.torch_name();
        let with = &mut self.with;
        param.map(|value| match with(&name, &value.dims()) {
            Some(data) => {
                let needs_gradient = value.is_require_grad();
                Tensor::from_data(data, &value.device()).set_require_grad(needs_gradient)
            }
            None => value,
        })
    }
}

/// torch's names of every parameter and running statistic, in the order in which a visitor meets them.
pub fn names<M: Module>(module: &M) -> Vec<String> {
    flat(module).into_iter().map(|(name, _)| name).collect()
}
