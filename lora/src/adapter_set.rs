//! The adapters of one model: two factors for each adapted module, by the module's path; and the modules that are
//! trained as a whole beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use autograd::Parameters;
use tensor::{DType, Device, Tensor};

use crate::adapter::{Adapter, Factors};
use crate::base::Base;
use crate::config::{Bias, LoraConfig};
use crate::error::{LoraError, Result};
use crate::init;
use crate::linear::row_norms;
use crate::subtraction::InitialFactors;
use crate::targets::ModuleShape;

/// A set of low-rank adapters: configuration, and the trainable tensors by PEFT's names (without its prefix): the factors
/// of the adapters, and whole parameters of the modules in [`LoraConfig::modules_to_save`].
///
/// Cloning is cheap and keeps the values as they are: a holder of a clone does not see later updates. While a clone
/// lives, an update in place has to copy what it changes.
#[derive(Clone, Debug)]
pub struct AdapterSet {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Clone, Debug)]
pub(crate) struct Inner {
    config: LoraConfig,
    device: Device,
    adapters: BTreeMap<String, Adapter>,
    /// Names of the parameters that are trained as a whole: `<module>.weight`, `<module>.bias`.
    whole: BTreeSet<String>,
    /// Second names of parameters that are trained as a whole, and the names they are trained under.
    tied: BTreeMap<String, String>,
    /// Whether every parameter of the model is trained as a whole.
    full: bool,
    parameters: Parameters,
    /// What [`AdapterSet::subtract_initial_product`] froze.
    pub(crate) subtracted: Option<InitialFactors>,
}

/// Where the values of a new set come from.
pub(crate) trait Values {
    /// A `[rank, inputs]` and B `[outputs, rank]` of one adapter.
    fn factors(&mut self, adapter: &Adapter) -> Result<(Tensor, Tensor)>;

    /// DoRA's magnitudes `[outputs]` of one adapter; `initial` makes those that the factors begin with.
    fn magnitude(&mut self, adapter: &Adapter, initial: &dyn Fn() -> Result<Tensor>) -> Result<Tensor>;

    /// A parameter of a module that is trained as a whole; `initial` is its value in the frozen model, in f32.
    fn whole(&mut self, module: &str, parameter: &str, initial: Tensor) -> Result<Tensor>;
}

/// Values from a function of the adapter, and the frozen model's own for modules trained as a whole.
struct FromFunction<F>(F);

impl<F: FnMut(&Adapter) -> Result<(Tensor, Tensor)>> Values for FromFunction<F> {
    fn factors(&mut self, adapter: &Adapter) -> Result<(Tensor, Tensor)> {
        self.0(adapter)
    }

    fn magnitude(&mut self, _: &Adapter, initial: &dyn Fn() -> Result<Tensor>) -> Result<Tensor> {
        initial()
    }

    fn whole(&mut self, _: &str, _: &str, initial: Tensor) -> Result<Tensor> {
        Ok(initial)
    }
}

impl AdapterSet {
    /// Fresh adapters on the modules that the configuration targets, with factors from [`LoraConfig::init_lora_weights`]; by
    /// default A is Kaiming-uniform and B is zero, so that the model computes what it did before. The numbers depend on the
    /// seed and each factor's name, and on the weight where the initialiser starts from it; its product is then subtracted
    /// ([`AdapterSet::subtract_initial_product`]). Modules to be trained as a whole begin as they are. For these, for DoRA
    /// and for biases, `base` must be [`Base::of`] a model.
    ///
    /// # Errors
    /// [`LoraError::Target`] when a target matches no module, [`LoraError::Setting`], or the device's own errors.
    pub fn new(config: LoraConfig, base: impl Into<Base>, device: &Device, seed: u64) -> Result<Self> {
        let base = base.into();
        config.targets.select_all(base.modules())?;
        base.saved_modules(&config.modules_to_save, true)?;
        let initialisation = config.init_lora_weights;
        let fresh = |adapter: &Adapter| {
            init::fresh_factors(adapter, initialisation, base.weight(&adapter.module), device, seed)
        };
        let mut set = Self::build(config, &base, device, &mut FromFunction(fresh))?;
        if initialisation.subtracts() {
            set.subtract_initial_product()?;
        }
        Ok(set)
    }

    /// Adapters with given factors on the modules that the configuration targets: `factors` makes A `[rank, inputs]`
    /// and B `[outputs, rank]` for each.
    ///
    /// # Errors
    /// [`LoraError::Target`] when no module is targeted, [`LoraError::Setting`], [`LoraError::Tensor`] for factors of
    /// another shape or type than f32, or what `factors` returns.
    pub fn from_factors(
        config: LoraConfig,
        base: impl Into<Base>,
        device: &Device,
        factors: impl FnMut(&Adapter) -> Result<(Tensor, Tensor)>,
    ) -> Result<Self> {
        Self::build(config, &base.into(), device, &mut FromFunction(factors))
    }

    pub(crate) fn build(config: LoraConfig, base: &Base, device: &Device, values: &mut dyn Values) -> Result<Self> {
        config.validate()?;
        let saved = base.saved_modules(&config.modules_to_save, false)?;
        let (mut adapters, mut parameters) = (BTreeMap::new(), Parameters::new());
        let mut whole = Vec::new();
        for module in base.targeted(&config, &saved)? {
            let adapter = Adapter::describe(&config, module)?;
            let (a, b) = values.factors(&adapter)?;
            adapter.check_factors(&a, &b)?;
            if let Some(name) = &adapter.magnitude {
                let magnitude = values.magnitude(&adapter, &|| initial_magnitude(base, &adapter, &a, &b))?;
                adapter.check(&magnitude, &[adapter.outputs])?;
                parameters.insert(name.clone(), magnitude.to_device(device)?)?;
            }
            if config.bias == Bias::LoraOnly && !adapter.embedding {
                whole.extend(bias_of(base, &module.name)?.map(|bias| (module.name.as_str(), bias)));
            }
            parameters.insert(adapter.a.clone(), a.to_device(device)?)?;
            parameters.insert(adapter.b.clone(), b.to_device(device)?)?;
            adapters.insert(module.name.clone(), adapter);
        }
        if config.bias == Bias::All {
            whole.extend(base.biases()?.filter(|(module, _)| !saved.contains(module)));
        }
        whole.extend(
            saved.into_iter().flat_map(|module| base.parameters(module).iter().map(move |entry| (module, entry))),
        );
        let mut names = BTreeSet::new();
        for (module, (parameter, frozen)) in whole {
            let name = format!("{module}.{parameter}");
            let value = values.whole(module, parameter, frozen.to_device(device)?.cast(DType::F32)?)?;
            parameters.insert(name.clone(), value)?;
            names.insert(name);
        }
        let device = device.clone();
        let tied = BTreeMap::new();
        let inner = Inner { config, device, adapters, whole: names, tied, full: false, parameters, subtracted: None };
        Ok(AdapterSet { inner: Arc::new(inner) })
    }

    /// A set without adapters in which every parameter of the model is trained; `values` gives each its value, f32, from
    /// its name and the model's own.
    pub(crate) fn build_full(
        base: &Base,
        device: &Device,
        mut values: impl FnMut(&str, Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let (mut parameters, mut whole) = (Parameters::new(), BTreeSet::new());
        for (name, frozen) in base.every_parameter() {
            let value = values(&name, frozen.to_device(device)?.cast(DType::F32)?)?;
            parameters.insert(name.clone(), value)?;
            whole.insert(name);
        }
        let inner = Inner {
            config: LoraConfig::default(),
            device: device.clone(),
            adapters: BTreeMap::new(),
            whole,
            tied: base.tied().clone(),
            full: true,
            parameters,
            subtracted: None,
        };
        Ok(AdapterSet { inner: Arc::new(inner) })
    }

    /// Whether the set trains every parameter of the model ([`AdapterSet::full`]) and holds no adapter.
    pub fn is_full(&self) -> bool {
        self.inner.full
    }

    /// What the configuration would adapt, without making any factors: for counting parameters and memory.
    ///
    /// # Errors
    /// [`LoraError::Target`] when no module is targeted, or [`LoraError::Setting`].
    pub fn plan(config: &LoraConfig, modules: &[ModuleShape]) -> Result<Vec<Adapter>> {
        config.validate()?;
        let base = Base::from(modules);
        base.targeted(config, &[])?.into_iter().map(|module| Adapter::describe(config, module)).collect()
    }

    /// The configuration.
    pub fn config(&self) -> &LoraConfig {
        &self.inner.config
    }

    /// Sets the dropout of training: a property of a run rather than of the adapter.
    ///
    /// # Errors
    /// [`LoraError::Setting`] for a probability outside 0..1.
    pub fn set_dropout(&mut self, dropout: f32) -> Result<()> {
        let config = LoraConfig { dropout, ..self.inner.config.clone() };
        config.validate()?;
        Arc::make_mut(&mut self.inner).config = config;
        Ok(())
    }

    /// The device the factors are on.
    pub fn device(&self) -> &Device {
        &self.inner.device
    }

    /// The adapters by module path, in order.
    pub fn adapters(&self) -> impl ExactSizeIterator<Item = &Adapter> {
        self.inner.adapters.values()
    }

    /// The adapter of one module.
    pub fn adapter(&self, module: &str) -> Option<&Adapter> {
        self.inner.adapters.get(module)
    }

    /// The factors of one module's adapter.
    pub fn factors(&self, module: &str) -> Option<Factors<'_>> {
        let adapter = self.adapter(module)?;
        let parameters = &self.inner.parameters;
        Some(Factors { a: parameters.get(&adapter.a)?, b: parameters.get(&adapter.b)?, scaling: adapter.scaling })
    }

    /// Replaces the factors of one module's adapter.
    ///
    /// # Errors
    /// [`LoraError::Setting`] when the module has no adapter; [`LoraError::Tensor`] for other shapes or types.
    pub fn set_factors(&mut self, module: &str, a: Tensor, b: Tensor) -> Result<()> {
        let inner = Arc::make_mut(&mut self.inner);
        let adapter = inner
            .adapters
            .get(module)
            .ok_or_else(|| LoraError::Setting { setting: "module", message: format!("`{module}` has no adapter") })?;
        adapter.check_factors(&a, &b)?;
        inner.parameters.insert(adapter.a.clone(), a.to_device(&inner.device)?)?;
        inner.parameters.insert(adapter.b.clone(), b.to_device(&inner.device)?)?;
        Ok(())
    }

    /// The trained copy of a model's parameter, f32, where its module is trained as a whole; `name` is
    /// `<module>.weight` or `<module>.bias`.
    pub fn whole_parameter(&self, name: &str) -> Option<&Tensor> {
        self.whole_entry(name).map(|(_, trained)| trained)
    }

    /// As [`AdapterSet::whole_parameter`], with the name it is trained under, which is another one for tied parameters.
    pub(crate) fn whole_entry(&self, name: &str) -> Option<(&str, &Tensor)> {
        let name = self.inner.whole.get(self.inner.tied.get(name).map_or(name, String::as_str))?;
        Some((name, self.inner.parameters.get(name)?))
    }

    /// The names of the parameters that are trained as a whole, in order.
    pub fn whole_parameters(&self) -> impl ExactSizeIterator<Item = &str> {
        self.inner.whole.iter().map(String::as_str)
    }

    /// The trainable tensors by name.
    pub fn parameters(&self) -> &Parameters {
        &self.inner.parameters
    }

    /// The trainable tensors by name, to be updated. Shapes and names must stay as they are.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut Arc::make_mut(&mut self.inner).parameters
    }
}

/// The row lengths of the weight with its update, column lengths for an embedding, which is what DoRA's magnitudes begin as.
fn initial_magnitude(base: &Base, adapter: &Adapter, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let weight = base.weight(&adapter.module).ok_or_else(|| LoraError::Setting {
        setting: "use_dora",
        message: format!("needs the weight of `{}`: make the set with `Base::of` the model", adapter.module),
    })?;
    let weight = if adapter.embedding { weight.t()? } else { weight.clone() };
    Ok(row_norms(&weight, &a.to_device(weight.device())?, &b.to_device(weight.device())?, adapter.scaling)?)
}

/// The bias of an adapted module, if it has one.
fn bias_of<'b>(base: &'b Base, module: &str) -> Result<Option<&'b (String, Tensor)>> {
    if !base.tells_of(module) {
        return Err(LoraError::Setting {
            setting: "bias",
            message: format!("needs the parameters of `{module}`: make the set with `Base::of` the model"),
        });
    }
    Ok(base.parameters(module).iter().find(|(name, _)| name == "bias"))
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::targets::Targets;

    fn modules() -> Vec<ModuleShape> {
        vec![
            ModuleShape::new("x.q_proj", 16, 6),
            ModuleShape::new("y.q_proj", 16, 6),
            ModuleShape::new("y.other", 5, 5),
        ]
    }

    fn config() -> LoraConfig {
        LoraConfig { rank: 3, targets: Targets::names(["q_proj"]), ..LoraConfig::default() }
    }

    on_each_backend! {
        fn fresh_factors_depend_on_seed_and_name(device) {
            let set = AdapterSet::new(config(), &modules(), device, 1).unwrap();
            let names: Vec<_> = set.parameters().names().collect();
            assert_eq!(
                names,
                ["x.q_proj.lora_A.weight", "x.q_proj.lora_B.weight", "y.q_proj.lora_A.weight", "y.q_proj.lora_B.weight"]
            );
            let a = |set: &AdapterSet, module: &str| set.factors(module).unwrap().a.to_vec::<f32>().unwrap();
            let x = a(&set, "x.q_proj");
            assert!(x.iter().all(|x| x.abs() <= 0.25), "1/√16 bounds them: {x:?}");
            assert!(x.iter().any(|x| x.abs() > 0.2), "they fill the range: {x:?}");
            assert_ne!(x, a(&set, "y.q_proj"));
            assert_ne!(x, a(&AdapterSet::new(config(), &modules(), device, 2).unwrap(), "x.q_proj"));
            assert_eq!(x, a(&AdapterSet::new(config(), &modules()[..1], &Device::cpu(), 1).unwrap(), "x.q_proj"));
            assert!(set.factors("x.q_proj").unwrap().b.to_vec::<f32>().unwrap().iter().all(|&x| x == 0.0));
            assert_eq!(set.factors("x.q_proj").unwrap().scaling, (16.0 / 3.0) as f32);
            assert!(set.factors("y.other").is_none());
        }
    }

    #[test]
    fn clones_keep_their_values() {
        let device = Device::cpu();
        let mut set = AdapterSet::new(config(), &modules(), &device, 1).unwrap();
        let before = set.clone();
        let (a, b) = (Tensor::ones(&device, &[3, 16], DType::F32), Tensor::ones(&device, &[6, 3], DType::F32));
        set.set_factors("x.q_proj", a.unwrap(), b.unwrap()).unwrap();
        assert_eq!(set.factors("x.q_proj").unwrap().b.to_vec::<f32>().unwrap(), [1.0; 18]);
        assert_eq!(before.factors("x.q_proj").unwrap().b.to_vec::<f32>().unwrap(), [0.0; 18]);
    }

    #[test]
    fn factors_of_other_shapes_or_modules_are_refused() {
        let device = Device::cpu();
        let mut set = AdapterSet::new(config(), &modules(), &device, 1).unwrap();
        let tensor = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32).unwrap();
        let error = set.set_factors("x.q_proj", tensor(&[3, 16]), tensor(&[3, 6])).unwrap_err().to_string();
        assert!(error.contains("[6, 3] for the adapter of `x.q_proj`"), "{error}");
        assert!(set.set_factors("y.other", tensor(&[3, 5]), tensor(&[5, 3])).is_err());
        let half = tensor(&[6, 3]).cast(DType::F16).unwrap();
        assert!(set.set_factors("x.q_proj", tensor(&[3, 16]), half).is_err());
        let misspelt = LoraConfig { targets: Targets::names(["q_proj", "qproj"]), ..config() };
        assert!(AdapterSet::new(misspelt, &modules(), &device, 1).unwrap_err().to_string().contains("`qproj`"));
    }

    #[test]
    fn modules_trained_as_a_whole_begin_as_they_are_in_f32() {
        let device = Device::cpu();
        let config = LoraConfig {
            targets: Targets::names(["query"]),
            modules_to_save: vec!["classifier".into(), "pooler".into()],
            ..LoraConfig::default()
        };
        let base = crate::base::tests::with_head(&device);
        let set = AdapterSet::new(config.clone(), &base, &device, 1).unwrap();
        let whole: Vec<_> = set.whole_parameters().collect();
        assert_eq!(whole, ["classifier.bias", "classifier.weight", "pooler.dense.bias", "pooler.dense.weight"]);
        assert_eq!(set.whole_parameter("classifier.weight").unwrap().to_vec::<f32>().unwrap(), [1.0; 12]);
        assert_eq!(set.parameters().len(), 6);
        assert!(set.whole_parameter("layers.0.query.lora_A.weight").is_none());
        let error = AdapterSet::new(config, base.modules(), &device, 1).unwrap_err().to_string();
        assert!(error.starts_with("modules_to_save: `classifier` names no module"), "{error}");
    }

    #[test]
    fn a_plan_counts_without_making_anything() {
        let plan = AdapterSet::plan(&config(), &modules()).unwrap();
        let elements: usize = plan.iter().map(|adapter| adapter.rank * (adapter.inputs + adapter.outputs)).sum();
        let set = AdapterSet::new(config(), &modules(), &Device::cpu(), 1).unwrap();
        assert_eq!(elements, set.parameters().elements());
        assert!(set.adapters().eq(plan.iter()));
    }
}
